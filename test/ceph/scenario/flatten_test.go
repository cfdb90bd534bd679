//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestGatewayIsKilledWhileItFlattens (row 37): the clones' parent was removed before, image
// and snapshot, so a flatten that is cut short between cutting its links could leave a
// clone that nobody can open. Whenever the gateway is killed, each clone shows what it
// did, and the next process carries the flattens on to their end by itself.
func TestGatewayIsKilledWhileItFlattens(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	all := &rows{rig: r, ctx: t.Context(), api: g.start("--init"), name: "flat"}
	base := all.image(8, 0, 1, 2, 5, 6)
	snap := all.snapshot(base.ID)
	want := all.shown(base.ID)
	var clones []store.ID
	for range 6 {
		clone := all.clone(snap.ID)
		all.snapshot(clone.ID)
		clones = append(clones, clone.ID)
	}
	r.must(all.api.Remove(t.Context(), snap.ID))
	r.must(all.api.Remove(t.Context(), base.ID))
	for _, id := range clones {
		_, err := all.api.StartFlatten(t.Context(), id)
		r.must(err)
	}
	rng := r.random()
	for range 5 {
		wait := time.NewTimer(time.Duration(rng.IntN(400)) * time.Millisecond)
		<-wait.C
		g.kill()
		for _, id := range clones {
			if got := all.shown(id); !bytes.Equal(got, want) {
				t.Fatalf("clone %s shows other data: %s", id, difference(got, want))
			}
		}
		all.api = g.start()
	}
	r.until(2*time.Minute, "all are flat", func(ctx context.Context) error {
		for _, id := range clones {
			if info, err := all.api.Stat(ctx, id); err != nil || info.Parent != "" {
				return fmt.Errorf("%s: %w, parent %q", id, err, info.Parent)
			}
		}
		return nil
	})
	for _, id := range clones {
		if saw := r.info(t.Context(), inCluster(id)); saw.Parent != nil {
			t.Errorf("clone %s has a parent at the end: %+v", id, saw.Parent)
		}
		if got := all.shown(id); !bytes.Equal(got, want) {
			t.Errorf("clone %s shows other data at the end: %s", id, difference(got, want))
		}
	}
	all.collected(base.ID)
}

// difference tells in which objects two contents differ, and how.
func difference(got, want []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d bytes for %d", len(got), len(want))
	for off := 0; off < min(len(got), len(want)); off += objectSize {
		g, w := got[off:min(len(got), off+objectSize)], want[off:min(len(want), off+objectSize)]
		if !bytes.Equal(g, w) {
			fmt.Fprintf(&b, "; object %d from byte %d: %x… for %x…, zeros %d for %d", off/objectSize,
				firstDifference(g, w), g[firstDifference(g, w)], w[firstDifference(g, w)], bytes.Count(g, []byte{0}), bytes.Count(w, []byte{0}))
		}
	}
	return b.String()
}
