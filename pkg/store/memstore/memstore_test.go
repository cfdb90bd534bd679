package memstore_test

import (
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Full { return memstore.New() }, storetest.Limits{
		Reopen: func(t *testing.T, s store.Full) store.Full {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return s.(*memstore.Store).Reopen()
		},
	})
}

// machine keeps a memstore through closes and crashes.
type machine struct{ s *memstore.Store }

func (m *machine) Open() (store.Full, error) {
	if m.s == nil {
		m.s = memstore.New()
	} else {
		m.s = m.s.Reopen()
	}
	return m.s, nil
}

func (m *machine) Crash() error {
	m.s = m.s.Reopen()
	return nil
}

func TestModel(t *testing.T) {
	storetest.Model(t, func(*testing.T) storetest.Machine { return &machine{} }, storetest.Options{Seeds: 10})
}
