//go:build ceph

package scenario

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestChainIsFlattenedUnderLoad: a clone of a clone of a clone and so on, each of them
// open and each written to. Past the soft limit flattens come by themselves, while the
// newest is under load: it goes on, and each keeps what it held and what was answered.
func TestChainIsFlattenedUnderLoad(t *testing.T) {
	const soft, links = 2, 6
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gateway's stacks:\n%s", g.stacks())
		}
	})
	img, err := api.Create(t.Context(), store.Spec{Name: "gen-0", Size: loadSize, Policy: store.Policy{Soft: soft, Hard: 64}})
	r.must(err)
	chain := []store.ID{img.ID}
	var loads []*load
	for i := 0; ; i++ {
		pub, err := api.Publish(t.Context(), img.ID, "node", store.AccessWrite)
		r.must(err)
		l := r.startLoad(g, pub, loadSize)
		if loads = append(loads, l); i > 0 {
			l.before = r.exported(t.Context(), inCluster(chain[i-1]))
		}
		l.progress(300)
		if i == links {
			break
		}
		l.rest()
		img, err = api.Create(t.Context(), store.Spec{Name: fmt.Sprintf("gen-%d", i+1), Parent: img.ID})
		r.must(err)
		chain = append(chain, img.ID)
	}
	newest := loads[links]
	r.until(3*time.Minute, "no image is deeper than its soft limit", func(ctx context.Context) error {
		newest.check()
		for _, id := range chain {
			if info, err := api.Stat(ctx, id); err != nil || info.Depth > soft {
				return fmt.Errorf("%s: depth %d, %w", id, info.Depth, err)
			}
		}
		return nil
	})
	newest.progress(2000)
	newest.rest()
	for i, l := range loads {
		l.disconnect()
		l.verify(r.exported(t.Context(), inCluster(chain[i])))
	}
}
