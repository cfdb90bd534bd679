//go:build ceph

package rbd_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
	"github.com/strata-csi/strata/pkg/store/storetest"
)

// machine is an installation that is opened again and again. A crash fences the client
// of the store, so nothing of it takes effect any more, as when its process is killed.
type machine struct {
	o rbd.Options
	s *storetest.Counted
}

// Open opens the store.
func (m *machine) Open() (store.Full, error) {
	ctx, cancel := openContext()
	defer cancel()
	s, err := rbd.Open(ctx, m.o)
	if err != nil {
		return nil, err
	}
	m.s = storetest.CountCloses(s)
	return m.s, nil
}

// Crash ends the store.
func (m *machine) Crash() error { return m.s.Full.(*rbd.Store).Kill() }

// TestModel runs the model checker on objects of 4 KiB, 16 KiB and 4 MiB in turn.
func TestModel(t *testing.T) {
	l := newLab(t)
	seeds := 3
	if n, err := strconv.Atoi(os.Getenv("STRATA_CEPH_SEEDS")); err == nil {
		seeds = n
	}
	for _, object := range []int64{4 << 10, 16 << 10, 4 << 20} {
		t.Run(strconv.FormatInt(object, 10), func(t *testing.T) {
			storetest.Model(t, func(*testing.T) storetest.Machine { return &machine{o: l.options(object)} },
				storetest.Options{Seeds: seeds, Steps: 32, Ops: 300, Timeout: 5 * time.Minute})
		})
	}
}
