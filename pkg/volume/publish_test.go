package volume_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

func TestPublish(t *testing.T) {
	r := newRig(t, 2)
	v := r.create(empty("v"))
	ctx := t.Context()
	ask := func(node string, access store.Access, use string) (volume.Published, error) {
		return r.svc.Publish(ctx, volume.PublishRequest{Volume: v.ID, Node: node, Access: access, Use: use})
	}
	first, err := ask("n1", store.AccessWrite, "mount")
	if err != nil || first.Target != v.Info.ID || first.Store != v.Store || first.Pool != "p" || len(first.Token) != 32 {
		t.Fatalf("%+v, %v", first, err)
	}
	r.restart(pool.Settings{})
	if again, err := ask("n1", store.AccessWrite, "mount"); err != nil || again != first {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = ask("n1", store.AccessWrite, "block")
	r.wantErr(err, store.ErrConflict, "another use")
	_, err = ask("n1", store.AccessScratch, "mount")
	r.wantErr(err, store.ErrConflict, "another use")
	_, err = ask("n2", store.AccessWrite, "mount")
	r.wantErr(err, store.ErrInUse, fmt.Sprintf("node n1 (epoch %d)", first.Epoch))
	_, err = ask("n9", store.AccessWrite, "mount")
	r.wantErr(err, store.ErrNotFound, `no node "n9" has registered`)
	if err := r.svc.Delete(ctx, v.ID); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("node n1 (epoch %d)", first.Epoch)) {
		t.Errorf("delete of a published volume: %v", err)
	}
	if err := r.svc.Unpublish(ctx, v.ID, "n2"); err != nil {
		t.Error(err)
	}
	if got, err := r.svc.Get(ctx, v.ID); err != nil || len(got.Nodes) != 1 || got.Nodes[0] != "n1" {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 {
		if err := r.svc.Unpublish(ctx, v.ID, "n1"); err != nil {
			t.Error(err)
		}
	}
	second, err := ask("n2", store.AccessWrite, "block")
	if err != nil || second.Epoch <= first.Epoch || second.Token == first.Token {
		t.Errorf("%+v, %v", second, err)
	}
	if err := r.svc.Unpublish(ctx, v.ID, ""); err != nil {
		t.Error(err)
	}
	if err := r.svc.Delete(ctx, v.ID); err != nil {
		t.Error(err)
	}
	r.wantClean(0, 0)
}

// TestPublishToMany: those who read are many, each file system on a head of its own; those
// who share are many; one who writes is alone.
func TestPublishToMany(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	ctx := t.Context()
	for _, c := range []struct {
		a, b store.Access
		ok   bool
	}{
		{store.AccessScratch, store.AccessScratch, true}, {store.AccessRead, store.AccessScratch, true},
		{store.AccessShared, store.AccessShared, true}, {store.AccessShared, store.AccessWrite, false},
		{store.AccessWrite, store.AccessRead, false}, {store.AccessScratch, store.AccessShared, false},
	} {
		one, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: v.ID, Node: "n1", Access: c.a})
		if err != nil {
			t.Fatal(err)
		}
		two, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: v.ID, Node: "n2", Access: c.b})
		if (err == nil) != c.ok {
			t.Errorf("%s beside %s: %v", c.b, c.a, err)
		}
		if c.b == store.AccessScratch && c.ok && (two.Target == v.Info.ID || two.Target == one.Target) {
			t.Errorf("no head of its own: %+v", two)
		}
		if err := r.svc.Unpublish(ctx, v.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	r.wantClean(1, 0)
}

// TestPublishLimit: a node gets no more volumes than it says it can take, from all
// stores together and under concurrent requests.
func TestPublishLimit(t *testing.T) {
	r := newRig(t, 3)
	for addr := range r.stores {
		r.note(addr, "node/small", `{"maxVolumes":5}`)
	}
	var ids []string
	for i := range 12 {
		ids = append(ids, r.create(empty(fmt.Sprintf("v%d", i))).ID)
	}
	var mu sync.Mutex
	published := 0
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			_, err := r.svc.Publish(t.Context(), volume.PublishRequest{Volume: id, Node: "small", Access: store.AccessWrite})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				published++
			} else {
				r.wantErr(err, volume.ErrLimit, "it has 5 volumes and can take 5")
			}
		})
	}
	wg.Wait()
	if published != 5 {
		t.Errorf("%d volumes on a node that can take 5", published)
	}
}

// TestPublishNodeElsewhere: a node that registered while the image's store was away is
// known from another store.
func TestPublishNodeElsewhere(t *testing.T) {
	r := newRig(t, 2)
	v := r.create(empty("v"))
	for addr, uuid := range r.uuid {
		if uuid != v.Store {
			r.note(addr, "node/new", `{}`)
		}
	}
	if _, err := r.svc.Publish(t.Context(), volume.PublishRequest{Volume: v.ID, Node: "new", Access: store.AccessWrite}); err != nil {
		t.Error(err)
	}
}

// TestPublishInterrupted: a publication that stopped after any step is completed by its
// repetition, or gone after an unpublish.
func TestPublishInterrupted(t *testing.T) {
	for step := range 3 {
		for _, end := range []string{"publish", "unpublish"} {
			r := newRig(t, 1)
			v := r.create(empty("v"))
			changes := 0
			r.net.SetFate(func(_, op string) pooltest.Fate {
				if op == "SwapNote" || op == "Publish" {
					if changes++; changes == step+1 {
						return pooltest.Lose
					}
				}
				return pooltest.Pass
			})
			req := volume.PublishRequest{Volume: v.ID, Node: "n1", Access: store.AccessWrite, Use: "mount"}
			if _, err := r.svc.Publish(t.Context(), req); (err == nil) != (step == 2) {
				t.Errorf("step %d: %v", step, err)
			}
			r.net.SetFate(nil)
			if end == "publish" {
				if _, err := r.svc.Publish(t.Context(), req); err != nil {
					t.Errorf("step %d: %v", step, err)
				}
			}
			if err := r.svc.Unpublish(t.Context(), v.ID, "n1"); err != nil {
				t.Errorf("step %d: %v", step, err)
			}
			r.wantClean(1, 0)
		}
	}
}

// TestLongNodeName: a node's name may be as long as a key.
func TestLongNodeName(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	name := strings.Repeat("n", 250)
	r.note("a:1", "node/"+name, `{}`)
	if _, err := r.svc.Publish(t.Context(), volume.PublishRequest{Volume: v.ID, Node: name, Access: store.AccessWrite, Use: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := r.svc.Unpublish(t.Context(), v.ID, name); err != nil {
		t.Error(err)
	}
	r.wantClean(1, 0)
}
