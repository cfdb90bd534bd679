package volume_test

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// filled is a volume with data at both ends of every MiB but the third.
func (r *rig) filled(name string, size int64) (volume.Volume, []byte) {
	r.t.Helper()
	v := r.create(volume.CreateRequest{Name: name, Required: size})
	all := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for at := int64(0); at < size; at += mib {
		if at == 2*mib {
			continue
		}
		for i := range int64(5000) {
			all[at+i], all[at+mib-1-i] = byte(rnd.Uint32()), byte(rnd.Uint32())
		}
		r.write(v, at, all[at:at+5000])
		r.write(v, at+mib-5000, all[at+mib-5000:at+mib])
	}
	return v, all
}

// until waits for a condition that another goroutine brings about.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestCopyToAnotherStore: a clone whose source's store is full is copied to another one:
// in the background, with progress, equal and sparse, and nothing is left of the way.
func TestCopyToAnotherStore(t *testing.T) {
	for _, kind := range []string{"volume", "snapshot"} {
		r := newRig(t, 2)
		src, all := r.filled("src", 8*mib)
		home := r.addr[src.Store]
		ext4 := store.Format("ext4")
		if _, err := r.stores[home].Modify(t.Context(), src.Info.ID, store.Change{Format: &ext4}); err != nil {
			t.Fatal(err)
		}
		req := volume.CreateRequest{Name: "copy", Volume: src.ID, Required: 10 * mib, Tuning: volume.Tuning{IOPS: ptr(int64(9))}}
		snapshots := 0
		if kind == "snapshot" {
			s, err := r.svc.CreateSnapshot(t.Context(), "s", src.ID)
			if err != nil {
				t.Fatal(err)
			}
			req.Volume, req.Snapshot, snapshots = "", s.ID, 1
			r.write(src, 0, []byte("later"))
		}
		r.net.SetFull(home, true)
		_, err := r.svc.Create(t.Context(), req)
		r.wantErr(err, store.ErrBusy, "of 8388608 bytes")
		if kind == "volume" {
			r.write(src, 0, []byte("later")) // the copy is of the moment it was asked for
		}
		v := r.create(req)
		if v.Store == src.Store || v.Info.Size != 10*mib || v.Info.Parent != "" || v.Info.Format != ext4 || v.Info.Limits.IOPS != 9 {
			t.Errorf("%s: %+v", kind, v)
		}
		r.wantData(v, 0, all)
		r.wantData(v, 8*mib, make([]byte, 2*mib))
		u, err := r.stores[r.addr[v.Store]].Usage(t.Context(), v.Info.ID)
		if err != nil || u.Own > 8*mib/4 {
			t.Errorf("%s: the copy is not sparse: %+v, %v", kind, u, err)
		}
		if again := r.create(req); again.ID != v.ID {
			t.Errorf("made again: %+v", again)
		}
		r.net.SetFull(home, false)
		if err := r.svc.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		r.wantClean(1, snapshots)
	}
}

// TestCopyNeedsRoom: no copy is begun to a store that cannot hold it.
func TestCopyNeedsRoom(t *testing.T) {
	r := newRig(t, 2)
	src, _ := r.filled("src", 8*mib)
	for addr := range r.stores {
		r.net.SetFree(addr, 20000)
	}
	r.net.SetFull(r.addr[src.Store], true)
	_, err := r.svc.Create(t.Context(), volume.CreateRequest{Name: "copy", Volume: src.ID})
	r.wantErr(err, store.ErrNoSpace, "")
	r.wantClean(1, 0)
}

// TestCopyOfUnknownContent: what nobody has looked at is never formatted.
func TestCopyOfUnknownContent(t *testing.T) {
	r := newRig(t, 2)
	src := r.create(empty("src"))
	r.net.SetFull(r.addr[src.Store], true)
	if v := r.create(volume.CreateRequest{Name: "copy", Volume: src.ID}); v.Info.Format != store.FormatUnknown {
		t.Errorf("format %q", v.Info.Format)
	}
}

// halfway starts a copy and holds it when its second half begins.
func (r *rig) halfway(req volume.CreateRequest, home string) (release func()) {
	r.t.Helper()
	r.net.SetFull(home, true)
	hold := make(chan struct{})
	var writes atomic.Int64
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "WriteAt" && writes.Add(1) > 3 {
			<-hold
			return pooltest.Refuse // else it could end before the controller does
		}
		return pooltest.Pass
	})
	_, err := r.svc.Create(r.t.Context(), req)
	r.wantErr(err, store.ErrBusy, "is being copied")
	r.until("half of the copy", func() bool { return writes.Load() > 3 })
	return func() { close(hold) }
}

// TestCopyResumes: another controller goes on where the last one was, and a volume that is
// being copied is not shown, not published, not frozen and not cloned.
func TestCopyResumes(t *testing.T) {
	r := newRig(t, 2)
	src, all := r.filled("src", 8*mib)
	home := r.addr[src.Store]
	req := volume.CreateRequest{Name: "copy", Volume: src.ID}
	release := r.halfway(req, home)
	r.hidden(src)
	release()
	r.restart(pool.Settings{})
	var read atomic.Int64
	r.net.SetFate(func(_, op string) pooltest.Fate {
		if op == "ReadAt" {
			read.Add(1)
		}
		return pooltest.Pass
	})
	v := r.create(req)
	r.wantData(v, 0, all)
	if n := read.Load(); n > 14 || n == 0 { // 14 runs of data
		t.Errorf("%d reads: it began anew", n)
	}
	if err := r.svc.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	r.wantClean(1, 0)
}

// hidden: the image of a copy exists and cannot be used.
func (r *rig) hidden(src volume.Volume) {
	r.t.Helper()
	ctx := r.t.Context()
	list, _, err := r.svc.List(ctx, volume.Page{})
	if err != nil || len(list) != 1 || list[0].ID != src.ID {
		r.t.Errorf("listed: %+v, %v", list, err)
	}
	snaps, _, err := r.svc.ListSnapshots(ctx, "", volume.Page{})
	if err != nil || len(snaps) != 0 {
		r.t.Errorf("listed: %+v, %v", snaps, err)
	}
	id := r.partial(src)
	_, err = r.svc.Publish(ctx, volume.PublishRequest{Volume: id, Node: "n1", Access: store.AccessWrite})
	r.wantErr(err, store.ErrBusy, "copied")
	_, err = r.svc.CreateSnapshot(ctx, "s", id)
	r.wantErr(err, store.ErrBusy, "copied")
	_, err = r.svc.Create(ctx, volume.CreateRequest{Name: "clone", Volume: id})
	r.wantErr(err, store.ErrBusy, "copied")
	_, err = r.svc.Expand(ctx, id, 20*mib, 0)
	r.wantErr(err, store.ErrBusy, "copied")
}

// partial is the id that the copy is going to have.
func (r *rig) partial(src volume.Volume) string {
	r.t.Helper()
	for addr, s := range r.stores {
		if info, err := s.Lookup(r.t.Context(), "copy"); err == nil {
			id := strings.Replace(src.ID, string(src.Info.ID), string(info.ID), 1)
			return strings.Replace(id, src.Store, r.uuid[addr], 1)
		}
	}
	r.t.Fatal("there is no image of the copy")
	return ""
}

// TestCopyCancelled: a delete ends the copy and clears everything away.
func TestCopyCancelled(t *testing.T) {
	for _, restart := range []bool{false, true} {
		r := newRig(t, 2)
		src, _ := r.filled("src", 8*mib)
		release := r.halfway(volume.CreateRequest{Name: "copy", Volume: src.ID}, r.addr[src.Store])
		id := r.partial(src)
		done := make(chan error, 1)
		if restart {
			release()
			r.restart(pool.Settings{})
			done <- r.svc.Delete(t.Context(), id)
		} else {
			go func() { done <- r.svc.Delete(t.Context(), id) }()
			release()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.wantClean(1, 0)
	}
}

// TestCopyDeleteInterrupted: a delete that stopped after any step is completed by its
// repetition.
func TestCopyDeleteInterrupted(t *testing.T) {
	for step := range 12 {
		r := newRig(t, 2)
		src, _ := r.filled("src", 8*mib)
		release := r.halfway(volume.CreateRequest{Name: "copy", Volume: src.ID}, r.addr[src.Store])
		id := r.partial(src)
		release()
		r.restart(pool.Settings{})
		var changes atomic.Int64
		r.net.SetFate(func(_, op string) pooltest.Fate {
			if op != "SwapNote" && op != "Remove" {
				return pooltest.Pass
			}
			if n := changes.Add(1); n == int64(step/2)+1 && step%2 == 0 {
				return pooltest.Lose
			} else if n > int64(step/2) {
				return pooltest.Refuse
			}
			return pooltest.Pass
		})
		if err := r.svc.Delete(t.Context(), id); err == nil {
			if step < 6 {
				t.Errorf("step %d: nothing failed", step)
			}
			break
		}
		r.net.SetFate(nil)
		r.restart(pool.Settings{})
		if err := r.svc.Delete(t.Context(), id); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		r.wantClean(1, 0)
	}
}

// TestCopySourceGone: when the source is deleted before the copy is taken up again, the
// request ends with ErrNotFound and nothing is left.
func TestCopySourceGone(t *testing.T) {
	r := newRig(t, 2)
	src, _ := r.filled("src", 8*mib)
	snap, err := r.svc.CreateSnapshot(t.Context(), "s", src.ID)
	if err != nil {
		t.Fatal(err)
	}
	req := volume.CreateRequest{Name: "copy", Snapshot: snap.ID}
	release := r.halfway(req, r.addr[src.Store])
	release()
	r.restart(pool.Settings{})
	if err := r.svc.DeleteSnapshot(t.Context(), snap.ID); err != nil {
		t.Fatal(err)
	}
	_, err = r.insist(req)
	r.wantErr(err, store.ErrNotFound, "")
	_, err = r.svc.Create(t.Context(), req)
	r.wantErr(err, store.ErrNotFound, "source of volume copy")
	r.wantClean(1, 0)
}

// TestCopyTargetFills: a store that fills up under a copy is left for the next one.
func TestCopyTargetFills(t *testing.T) {
	r := newRig(t, 3)
	src, all := r.filled("src", 8*mib)
	home := r.addr[src.Store]
	r.net.SetFull(home, true)
	var mu sync.Mutex // a copy writes several pieces at once
	first := ""
	r.net.SetFate(func(addr, op string) pooltest.Fate {
		mu.Lock()
		defer mu.Unlock()
		if op == "WriteAt" && addr != home && (first == "" || first == addr) {
			first = addr
			return pooltest.Full
		}
		return pooltest.Pass
	})
	v := r.create(volume.CreateRequest{Name: "copy", Volume: src.ID})
	r.wantData(v, 0, all)
	mu.Lock()
	defer mu.Unlock()
	if at := r.addr[v.Store]; at == first || at == home {
		t.Errorf("it is on %s", at)
	}
	if n := r.images("copy"); n != 1 {
		t.Errorf("%d images", n)
	}
}

// TestCopiesTakeTurns: no more copies run at once than allowed; the others wait.
func TestCopiesTakeTurns(t *testing.T) {
	r := newRig(t, 2)
	src, all := r.filled("src", 8*mib)
	r.net.SetFull(r.addr[src.Store], true)
	hold := make(chan struct{})
	var opens, held atomic.Int64
	r.net.SetFate(func(_, op string) pooltest.Fate {
		switch op {
		case "Open":
			opens.Add(1)
		case "WriteAt":
			held.Add(1)
			<-hold
		}
		return pooltest.Pass
	})
	names := []string{"c0", "c1", "c2", "c3", "c4", "c5"}
	for _, name := range names {
		_, err := r.svc.Create(t.Context(), volume.CreateRequest{Name: name, Volume: src.ID})
		r.wantErr(err, store.ErrBusy, "copied")
	}
	r.until("two copies at work", func() bool { return opens.Load() == 4 && held.Load() >= 2 })
	if n := len(r.svc.Copies()); n != len(names) {
		t.Errorf("%d copies are known", n)
	}
	if n := opens.Load(); n != 4 { // each opens two devices, and the others have none yet
		t.Errorf("%d devices are open", n)
	}
	close(hold)
	for _, name := range names {
		v := r.create(volume.CreateRequest{Name: name, Volume: src.ID})
		r.wantData(v, 0, all)
		if err := r.svc.Delete(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
	}
	r.wantClean(1, 0)
}
