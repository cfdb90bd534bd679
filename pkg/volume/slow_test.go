package volume_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// unhurried replaces the controller by one whose requests have time for slow stores, while
// discoveries have not. No time passes in either case.
func (r *rig) unhurried() {
	r.t.Helper()
	r.stop()
	cfg := pool.Config{Pools: []pool.Settings{{Name: "p", Default: true}}}
	for addr := range r.stores {
		cfg.Pools[0].Members = append(cfg.Pools[0].Members, addr)
	}
	set, err := pool.Open(cfg, pool.Options{Dial: r.net.Dial, MaxAge: -1, ProbeTimeout: pooltest.Patience / 2})
	if err != nil {
		r.t.Fatal(err)
	}
	svc := volume.New(set, volume.Options{Stride: 2 * mib, Timeout: 2 * pooltest.Patience})
	r.svc = svc
	r.stop = func() {
		if err := errors.Join(svc.Close(), set.Close()); err != nil {
			r.t.Error(err)
		}
	}
}

// on makes a volume on the store at addr.
func (r *rig) on(addr, name string) volume.Volume {
	r.t.Helper()
	r.net.SetNode(addr, addr)
	req := empty(name)
	req.Distance = by(map[string]int{addr: 0})
	v := r.create(req)
	if r.addr[v.Store] != addr {
		r.t.Fatalf("%s is on %s", name, r.addr[v.Store])
	}
	return v
}

// at makes a volume of which the store at addr decides, and which is there.
func (r *rig) at(addr string) volume.Volume {
	r.t.Helper()
	for i := 0; ; i++ {
		v := r.create(empty(fmt.Sprintf("v%d", i)))
		if r.addr[v.Store] == addr {
			return v
		}
		if err := r.svc.Delete(r.t.Context(), v.ID); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestSlowStore: with one store dead, and the volume's own so slow that it misses every
// discovery, all that concerns the volume works.
func TestSlowStore(t *testing.T) {
	r := newRig(t, 3)
	v := r.at("b:1")
	r.unhurried()
	r.net.SetSlow("b:1", true)
	r.net.SetDown("c:1", true)
	ctx := t.Context()
	if got, err := r.svc.Get(ctx, v.ID); err != nil || got.ID != v.ID {
		t.Errorf("get: %v, %v", got.ID, err)
	}
	for range 2 {
		p, err := r.svc.Publish(ctx, volume.PublishRequest{Volume: v.ID, Node: "n1", Access: store.AccessWrite, Use: "u"})
		if err != nil || p.Store != v.Store {
			t.Fatalf("publish: %+v, %v", p, err)
		}
	}
	if got, err := r.svc.Expand(ctx, v.ID, 8*mib, 0); err != nil || got.Info.Size != 8*mib {
		t.Errorf("expand: %+v, %v", got, err)
	}
	snap, err := r.svc.CreateSnapshot(ctx, "s", v.ID)
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	if again, err := r.svc.CreateSnapshot(ctx, "s", v.ID); err != nil || again.ID != snap.ID {
		t.Errorf("the same snapshot again: %v, %v", again.ID, err)
	}
	if clone := r.create(volume.CreateRequest{Name: "clone", Snapshot: snap.ID}); clone.Store != v.Store {
		t.Errorf("the clone is on %s", r.addr[clone.Store])
	} else if err := r.svc.Delete(ctx, clone.ID); err != nil {
		t.Errorf("delete the clone: %v", err)
	}
	if err := r.svc.Unpublish(ctx, v.ID, "n1"); err != nil {
		t.Errorf("unpublish: %v", err)
	}
	if err := r.svc.DeleteSnapshot(ctx, snap.ID); err != nil {
		t.Errorf("delete the snapshot: %v", err)
	}
	if err := r.svc.Delete(ctx, v.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	_, err = r.svc.Get(ctx, v.ID) // c may have it
	r.wantErr(err, store.ErrUnavailable, r.uuid["c:1"])
	r.net.SetDown("c:1", false)
	_, err = r.svc.Get(ctx, v.ID)
	r.wantErr(err, store.ErrNotFound, "")
	if err := r.svc.Delete(ctx, v.ID); err != nil {
		t.Errorf("delete what is gone: %v", err)
	}
	if err := r.svc.DeleteSnapshot(ctx, snap.ID); err != nil {
		t.Errorf("delete the snapshot that is gone: %v", err)
	}
	r.net.SetSlow("b:1", false)
	r.wantClean(0, 0)
}

// TestSlowStoreElsewhere: a volume that is not where its id says is found on a slow store.
func TestSlowStoreElsewhere(t *testing.T) {
	r := newRig(t, 3)
	v := r.on("b:1", "v")
	r.unhurried()
	r.net.SetSlow("b:1", true)
	for _, hint := range []string{r.uuid["a:1"], r.uuid["c:1"]} {
		moved := strings.Replace(v.ID, v.Store, hint, 1)
		if got, err := r.svc.Get(t.Context(), moved); err != nil || got.Store != v.Store {
			t.Errorf("%v, %v", got, err)
		}
		r.net.SetDown("c:1", true)
	}
}

// TestSlowAnchor: a slow store that decides where volumes are made is waited for, and none
// is made twice.
func TestSlowAnchor(t *testing.T) {
	r := newRig(t, 2)
	r.create(empty("first"))
	r.unhurried()
	r.net.SetSlow("b:1", true)
	at := make(map[string]int)
	made := make(map[string]string)
	for i := range 16 {
		name := fmt.Sprintf("v%d", i)
		v := r.create(empty(name))
		made[name] = v.ID
		at[r.addr[v.Store]]++
	}
	if at["a:1"] != 16 {
		t.Errorf("new volumes went to %v, though one store hardly answers", at)
	}
	for _, slow := range []string{"a:1", "b:1"} {
		r.net.SetSlow("b:1", false)
		r.net.SetSlow(slow, true)
		for name, id := range made {
			if v := r.create(empty(name)); v.ID != id || r.images(name) != 1 {
				t.Errorf("%s was made again", name)
			}
		}
	}
}

// TestSlowStoreCounts: what a node has on a slow store counts against its limit.
func TestSlowStoreCounts(t *testing.T) {
	r := newRig(t, 2)
	for addr := range r.stores {
		r.note(addr, "node/small", `{"maxVolumes":1}`)
	}
	r.unhurried()
	for i, name := range []string{"first", "second"} {
		r.net.SetSlow("b:1", false)
		v := r.on("b:1", name)
		r.net.SetSlow("b:1", true)
		_, err := r.svc.Publish(t.Context(), volume.PublishRequest{Volume: v.ID, Node: "small", Access: store.AccessWrite, Use: "u"})
		if i == 0 && err != nil || i == 1 && !errors.Is(err, volume.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSlowStoreIsCleaned: a delete that was interrupted is completed on a slow store, not
// called complete without it.
func TestSlowStoreIsCleaned(t *testing.T) {
	r := newRig(t, 2)
	v := r.at("b:1")
	snap, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	var removed atomic.Bool // a copy reads several pieces at once
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "Remove" {
			removed.Store(true)
		}
		if removed.Load() && op == "Note" {
			return pooltest.Refuse
		}
		return pooltest.Pass
	})
	r.wantErr(r.svc.DeleteSnapshot(t.Context(), snap.ID), store.ErrUnavailable, "refused")
	r.net.SetFate(nil)
	r.unhurried()
	r.net.SetSlow("b:1", true)
	if err := r.svc.DeleteSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
	if err := r.svc.Delete(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
	r.net.SetSlow("b:1", false)
	r.wantClean(0, 0)
}

// TestSlowCopyIsCleaned: so is that of a volume which was still being copied.
func TestSlowCopyIsCleaned(t *testing.T) {
	r := newRig(t, 2)
	src, _ := r.filled("src", 4*mib)
	from, to := "a:1", "b:1"
	if r.addr[src.Store] != from {
		from, to = to, from
	}
	r.net.SetFull(from, true)
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "ReadAt" {
			return pooltest.Hold
		}
		return pooltest.Pass
	})
	_, err := r.svc.Create(t.Context(), volume.CreateRequest{Name: "copy", Volume: src.ID})
	r.wantErr(err, store.ErrBusy, "")
	r.until("the copy has begun", func() bool { return r.images("copy") == 1 })
	info, err := r.stores[to].Lookup(t.Context(), "copy")
	if err != nil {
		t.Fatal(err)
	}
	id := strings.NewReplacer(string(src.Info.ID), string(info.ID), src.Store, r.uuid[to]).Replace(src.ID)
	var removed atomic.Bool // a copy reads several pieces at once
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		if op == "Remove" && addr == to {
			removed.Store(true)
		}
		if removed.Load() && op == "SwapNote" {
			return pooltest.Refuse
		}
		return pooltest.Pass
	})
	r.wantErr(r.svc.Delete(t.Context(), id), store.ErrUnavailable, "refused")
	r.net.SetFate(nil)
	r.net.SetFull(from, false)
	r.unhurried()
	r.net.SetSlow(to, true)
	for _, v := range []string{id, src.ID} {
		if err := r.svc.Delete(t.Context(), v); err != nil {
			t.Error(err)
		}
	}
	r.net.SetSlow(to, false)
	r.wantClean(0, 0)
}
