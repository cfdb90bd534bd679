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
