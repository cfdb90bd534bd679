package volume_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// crowded lets the store's nth change to what it has fail for want of space, counted over
// all stores but one, and tells whether there was an nth.
func (r *rig) crowded(except string, nth int64) (hit func() bool) {
	var count atomic.Int64
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		if addr != except && (op == "SwapNote" || op == "Remove") && count.Add(1) == nth {
			return pooltest.Full
		}
		return pooltest.Pass
	})
	return func() bool { return count.Load() >= nth }
}

// TestNoRoomForNotes: a store on which not even a note fits any more, at whatever step of
// a copy, does not lead to a second volume elsewhere, and nothing stays when both ends are
// deleted: that something lacked space only means that nothing was made where nothing was.
func TestNoRoomForNotes(t *testing.T) {
	for nth := int64(1); ; nth++ {
		r := newRig(t, 3)
		src, all := r.filled("src", 4*mib)
		home := r.addr[src.Store]
		r.net.SetFull(home, true)
		hit := r.crowded(home, nth)
		req := volume.CreateRequest{Name: "copy", Volume: src.ID, Required: 4 * mib}
		v, err := r.outlast(func() (volume.Volume, error) { return r.svc.Create(t.Context(), req) })
		if err != nil {
			t.Fatalf("change %d: %v", nth, err)
		}
		if n := r.images("copy"); n != 1 {
			t.Fatalf("change %d: %d images", nth, n)
		}
		r.wantData(v, 0, all)
		if err := r.svc.Delete(t.Context(), v.ID); err != nil && !errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("change %d: %v", nth, err)
		}
		over := !hit()
		r.net.SetFate(nil)
		for _, volume := range []string{v.ID, src.ID} {
			if err := r.svc.Delete(t.Context(), volume); err != nil {
				t.Fatal(err)
			}
		}
		r.wantClean(0, 0)
		if over {
			if nth < 5 {
				t.Fatalf("only %d changes were tried", nth-1)
			}
			return
		}
	}
}

// outlast repeats a request as long as it is told to, or that a store is away.
func (r *rig) outlast(call func() (volume.Volume, error)) (volume.Volume, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		v, err := call()
		if !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrUnavailable) {
			return v, err
		}
		<-tick.C
	}
}

// TestNoRoomToNoteASnapshot: the snapshot exists once it was taken, so that there is no
// room to note it is no promise that nothing was made.
func TestNoRoomToNoteASnapshot(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v"))
	for _, nth := range []int64{1, 2} {
		r.crowded("", nth)
		_, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID)
		r.wantErr(err, store.ErrUnavailable, "no space")
		if errors.Is(err, store.ErrNoSpace) {
			t.Errorf("note %d: %v", nth, err)
		}
	}
	r.net.SetFate(nil)
	if _, err := r.svc.CreateSnapshot(t.Context(), "s", v.ID); err != nil {
		t.Fatal(err)
	}
	r.wantClean(1, 1)
}

// TestHeldCopyCanBeDeleted: a copy whose store lets its writes wait, because it is full,
// can be deleted, which is what makes room there; and the controller can end.
func TestHeldCopyCanBeDeleted(t *testing.T) {
	r := newRig(t, 2)
	src, _ := r.filled("src", 4*mib)
	home := r.addr[src.Store]
	r.net.SetFull(home, true)
	var held atomic.Int64
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		if addr != home && op == "WriteAt" {
			held.Add(1)
			return pooltest.Hold
		}
		return pooltest.Pass
	})
	req := volume.CreateRequest{Name: "copy", Volume: src.ID, Required: 4 * mib}
	other := map[string]string{"a:1": "b:1", "b:1": "a:1"}[home]
	for range 2 {
		before := held.Load()
		_, err := r.svc.Create(t.Context(), req)
		r.wantErr(err, store.ErrBusy, "is being copied")
		r.until("a write is held", func() bool { return held.Load() > before })
		i, err := r.stores[other].Lookup(t.Context(), "copy")
		if err != nil {
			t.Fatal(err)
		}
		id := strings.Join([]string{"v1", "p", string(i.ID), r.uuid[other]}, ":")
		if err := r.svc.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	before := held.Load()
	if _, err := r.svc.Create(t.Context(), req); !errors.Is(err, store.ErrBusy) {
		t.Fatal(err)
	}
	r.until("a write is held", func() bool { return held.Load() > before })
	r.restart(pool.Settings{})
	if n := r.images("copy"); n != 1 {
		t.Errorf("%d images", n)
	}
}
