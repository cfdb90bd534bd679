package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestDeleteUnreachable: while a store that may have it does not answer, a delete does
// not succeed and a volume is not unknown; nothing on the live store is touched.
func TestDeleteUnreachable(t *testing.T) {
	r := newRig(t, 2)
	v := r.create(empty("v"))
	home := r.addr[v.Store]
	other := map[string]string{"a:1": "b:1", "b:1": "a:1"}[home]
	ctx := t.Context()
	gone := strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1)
	for _, down := range []string{home, other} {
		r.net.SetDown(down, true)
		want := r.uuid[down]
		ids := []string{gone}
		if down == home {
			ids = append(ids, v.ID)
		}
		for _, id := range ids {
			r.wantErr(r.svc.Delete(ctx, id), store.ErrUnavailable, want)
			r.wantErr(r.svc.Unpublish(ctx, id, "n1"), store.ErrUnavailable, want)
			_, err := r.svc.Get(ctx, id)
			r.wantErr(err, store.ErrUnavailable, want)
			_, err = r.svc.Expand(ctx, id, mib, 0)
			r.wantErr(err, store.ErrUnavailable, want)
		}
		_, _, err := r.svc.List(ctx, volume.Page{})
		r.wantErr(err, store.ErrUnavailable, want)
		_, _, err = r.svc.ListSnapshots(ctx, "", volume.Page{})
		r.wantErr(err, store.ErrUnavailable, want)
		r.net.SetDown(down, false)
	}
	for range 2 {
		for _, id := range []string{gone, v.ID, "nonsense", strings.Replace(v.ID, "v1:", "v2:", 1)} {
			if err := r.svc.Delete(ctx, id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
	r.wantClean(0, 0)
}

// TestUnknownStore: what was made on a store that nobody knows is not in reach, until the
// store is forgotten. The same holds for a pool that is not configured.
func TestUnknownStore(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	lost := string(store.NewID())
	id := strings.Replace(strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1), v.Store, lost, 1)
	r.wantErr(r.svc.Delete(t.Context(), id), store.ErrUnavailable, lost)
	set := r.net.Pools(pool.Settings{Name: "p", Members: []string{"a:1"}})
	defer set.Close()
	if err := set.Forget(t.Context(), "p", lost); err != nil {
		t.Fatal(err)
	}
	if err := r.svc.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
	r.wantErr(r.svc.Delete(t.Context(), strings.Replace(v.ID, ":p:", ":q:", 1)), store.ErrUnavailable, `pool "q"`)
}

// TestForwardedToALostStore: a volume that was under way on a store that is given up is
// made on another one.
func TestForwardedToALostStore(t *testing.T) {
	r := newRig(t, 3)
	full := r.addr[r.create(empty("x")).Store]
	if err := r.svc.Delete(t.Context(), r.create(empty("x")).ID); err != nil {
		t.Fatal(err)
	}
	r.net.SetFull(full, true)
	lost := ""
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		if op == "Create" && addr != full {
			lost = addr
			return pooltest.Refuse
		}
		return pooltest.Pass
	})
	_, err := r.svc.Create(t.Context(), empty("x"))
	r.wantErr(err, store.ErrUnavailable, "refused")
	r.net.SetFate(nil)
	r.net.SetDown(lost, true)
	_, err = r.svc.Create(t.Context(), empty("x"))
	r.wantErr(err, store.ErrUnavailable, "is made there")
	set := r.net.Pools(pool.Settings{Name: "p", Members: []string{full}})
	defer set.Close()
	if err := set.Forget(t.Context(), "p", r.uuid[lost]); err != nil {
		t.Fatal(err)
	}
	if v := r.create(empty("x")); v.Store == r.uuid[lost] {
		t.Errorf("made on %s", v.Store)
	}
	delete(r.stores, lost)
	if n := r.images("x"); n != 1 {
		t.Errorf("%d images", n)
	}
}

// TestMovedVolume: a volume is found wherever it is, and keeps its id's meaning.
func TestMovedVolume(t *testing.T) {
	r := newRig(t, 2)
	v := r.create(empty("v"))
	other := map[string]string{"a:1": "b:1", "b:1": "a:1"}[r.addr[v.Store]]
	moved := strings.Replace(v.ID, v.Store, r.uuid[other], 1)
	got, err := r.svc.Get(t.Context(), moved)
	if err != nil || got.Info.ID != v.Info.ID || got.Store != v.Store || !volume.Same(moved, got.ID) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := r.svc.Delete(t.Context(), moved); err != nil {
		t.Error(err)
	}
	r.wantClean(0, 0)
}

// TestReplacedStore: an empty store that takes the place of one in the middle of a request
// cannot say that a volume does not exist.
func TestReplacedStore(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	swapped := false
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		if op == "Stat" && !swapped {
			swapped = true
			r.net.Add(addr) // takes effect from the next call on
		}
		return pooltest.Pass
	})
	missing := strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1)
	r.wantErr(r.svc.Delete(t.Context(), missing), store.ErrUnavailable, v.Store)
	r.wantErr(r.svc.Delete(t.Context(), v.ID), store.ErrUnavailable, v.Store)
}

// TestDetached: when a caller gives up, the work goes on; until it is done, the object is
// busy; then the repetition finds it done.
func TestDetached(t *testing.T) {
	r := newRig(t, 1)
	hold, entered := make(chan struct{}), make(chan struct{}, 1)
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "Create" {
			entered <- struct{}{}
			<-hold
		}
		return pooltest.Pass
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := r.svc.Create(ctx, empty("v")); done <- err }()
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	_, err := r.svc.Create(t.Context(), empty("v"))
	r.wantErr(err, store.ErrBusy, "another request")
	go func() { _, err := r.svc.Create(t.Context(), empty("w")); done <- err }()
	<-entered // another volume is not held up
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if v := r.create(empty("v")); v.Info.Name != "v" || r.images("v") != 1 {
		t.Errorf("%+v", v)
	}
}

// TestClosed: a service that is closed has ended all work, and takes no more.
func TestClosed(t *testing.T) {
	r := newRig(t, 1)
	if err := r.svc.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := r.svc.Create(t.Context(), empty("v"))
	r.wantErr(err, store.ErrUnavailable, "stopping")
}
