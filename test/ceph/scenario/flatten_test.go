//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"fmt"
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
			if !bytes.Equal(all.shown(id), want) {
				t.Errorf("clone %s shows other data", id)
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
		if saw := r.info(t.Context(), inCluster(id)); saw.Parent != nil || !bytes.Equal(all.shown(id), want) {
			t.Errorf("clone %s at the end: parent %+v, or other data", id, saw.Parent)
		}
	}
	all.collected(base.ID)
}
