//go:build ceph

package rbd_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
	"github.com/strata-csi/strata/pkg/store/storetest"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// confVariable names the ceph.conf of a cluster to use instead of a new one; its pool
// rbd is filled with what tests make.
const confVariable = "STRATA_CEPH_CONF"

// lab is a cluster with installations in it.
type lab struct {
	conf  string
	pool  *cluster.Cluster // nil for a cluster that was there
	label string
	next  atomic.Int64
}

// newLab starts a cluster for a test, which runs beside others from then on: most of the
// time they wait.
func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{label: fmt.Sprintf("%x", time.Now().UnixNano())}
	if l.conf = os.Getenv(confVariable); l.conf != "" {
		return l
	}
	if missing := cluster.Missing(); len(missing) > 0 {
		t.Skipf("Ceph is not installed here: %v are missing; see hack/ceph.sh", missing)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	l.conf, l.pool = c.Conf(), c
	return l
}

// options are those of a new installation with objects of that many bytes. Its depth
// limits are those of the embedded store, which the suite counts on.
func (l *lab) options(object int64) rbd.Options {
	return rbd.Options{
		ConfigFile: l.conf, Pool: "rbd", Installation: fmt.Sprintf("%s-%d", l.label, l.next.Add(1)), Init: true,
		ObjectSize: object, Policy: store.Policy{Soft: 8, Hard: 64},
	}
}

func open(t *testing.T, o rbd.Options) *rbd.Store {
	t.Helper()
	s, err := rbd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// homed is a store that knows how to open itself again.
type homed struct {
	*rbd.Store
	o rbd.Options
}

func conformance(t *testing.T, object int64, lim storetest.Limits) {
	l := newLab(t)
	lim.CoarseUsage = true
	lim.Reopen = func(t *testing.T, s store.Full) store.Full {
		h := s.(homed)
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		return homed{open(t, h.o), h.o}
	}
	storetest.Run(t, func(t *testing.T) store.Full {
		o := l.options(object)
		return homed{open(t, o), o}
	}, lim)
}

const largest = "the size of objects is fixed when an image is made, and librbd's object maps hold 256 million of them: a small image cannot become one of 1 PiB"

// TestConformance: with objects as small as a block, copying, sharing and accounting are
// exact, so nothing but sizes is a limit.
func TestConformance(t *testing.T) {
	conformance(t, 4<<10, storetest.Limits{Skip: map[string]string{"TestSizesLargest": largest}})
}

// openContext bounds the opening of a store.
func openContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// TestConformanceLargeObjects: with objects of 4 MiB, as installations have them, images
// of the suite are one object each, so what is exact to the block is not kept there.
func TestConformanceLargeObjects(t *testing.T) {
	if testing.Short() {
		t.Skip("with -short the suite runs on small objects only")
	}
	conformance(t, 4<<20, storetest.Limits{Skip: map[string]string{
		"TestSizesLargest":  largest,
		"TestDeviceExtents": "the first write to a clone brings the rest of the 4 MiB object along, so what was inherited is the clone's own from then on; TestConformance has the case with small objects",
		"TestUsage":         "space is accounted in objects of 4 MiB, all of which an image of 128 KiB fills; TestConformance has the case with small objects",
	}})
}
