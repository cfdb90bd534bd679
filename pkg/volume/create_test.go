package volume_test

import (
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestCreateRepeats: the same request has the same answer, also from another controller;
// another one under the same name is refused.
func TestCreateRepeats(t *testing.T) {
	r := newRig(t, 3)
	req := empty("v")
	first := r.create(req)
	if first.Info.Size != 4*mib || len(first.ID) > 128 {
		t.Errorf("%+v", first)
	}
	r.restart(pool.Settings{})
	if again := r.create(req); again.ID != first.ID || r.images("v") != 1 {
		t.Errorf("%s and %s", first.ID, again.ID)
	}
	req.Required, req.Limit = 2*mib, 5*mib // its size lies within
	if again := r.create(req); again.ID != first.ID {
		t.Errorf("%s and %s", first.ID, again.ID)
	}
	for what, change := range map[string]func(*volume.CreateRequest){
		"larger":     func(q *volume.CreateRequest) { q.Required = 5 * mib },
		"smaller":    func(q *volume.CreateRequest) { q.Required, q.Limit = mib, 2*mib },
		"use":        func(q *volume.CreateRequest) { q.Use = "block" },
		"read only":  func(q *volume.CreateRequest) { q.ReadOnly = true },
		"block size": func(q *volume.CreateRequest) { q.BlockSize = 512 },
		"tuning":     func(q *volume.CreateRequest) { q.Tuning.IOPS = ptr(int64(5)) },
		"mode":       func(q *volume.CreateRequest) { q.CloneMode = pool.CloneCopy },
		"source":     func(q *volume.CreateRequest) { q.Volume = first.ID },
	} {
		other := empty("v")
		change(&other)
		_, err := r.svc.Create(t.Context(), other)
		t.Log(what)
		r.wantErr(err, store.ErrConflict, "volume v exists")
	}
	r.wantClean(1, 0)
}

func TestCreateRefuses(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("source"))
	for _, c := range []struct {
		req volume.CreateRequest
		is  error
	}{
		{volume.CreateRequest{}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Pool: "other"}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Required: -1}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Required: 2, Limit: 1}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Required: 1, Limit: 1}, store.ErrRange},
		{volume.CreateRequest{Name: "x", Required: store.MaxSize + 1}, store.ErrRange},
		{volume.CreateRequest{Name: "x", CloneMode: "fast"}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", BlockSize: 1024}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Tuning: volume.Tuning{Soft: ptr(0)}}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Tuning: volume.Tuning{Soft: ptr(9), Hard: ptr(3)}}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Tuning: volume.Tuning{IOPS: ptr(int64(-1))}}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Volume: v.ID, Snapshot: v.ID}, store.ErrInvalid},
		{volume.CreateRequest{Name: "x", Volume: v.ID, Required: v.Info.Size - 1}, store.ErrRange},
		{volume.CreateRequest{Name: "x", Volume: v.ID, Limit: v.Info.Size - 1}, store.ErrRange},
		{volume.CreateRequest{Name: "x", Volume: "nonsense"}, store.ErrNotFound},
		{volume.CreateRequest{Name: "x", Snapshot: v.ID}, store.ErrNotFound},
		{volume.CreateRequest{Name: "x", Volume: strings.Replace(v.ID, string(v.Info.ID), string(store.NewID()), 1)}, store.ErrNotFound},
	} {
		_, err := r.svc.Create(t.Context(), c.req)
		t.Logf("%+v", c.req)
		r.wantErr(err, c.is, "")
	}
	r.wantClean(1, 0)
}

func TestCreateSizes(t *testing.T) {
	r := newRig(t, 1)
	for _, c := range []struct{ required, limit, want int64 }{
		{0, 0, 1 << 30}, {0, 10 * mib, 10 * mib}, {0, 10*mib + 1, 10 * mib}, {1, 0, store.Block}, {mib + 1, 0, mib + store.Block},
	} {
		v := r.create(volume.CreateRequest{Name: "v", Required: c.required, Limit: c.limit})
		if v.Info.Size != c.want {
			t.Errorf("%d to %d: %d bytes, want %d", c.required, c.limit, v.Info.Size, c.want)
		}
		if err := r.svc.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCreateNames: every name that CSI allows works, and names that the store does not
// take are told apart.
func TestCreateNames(t *testing.T) {
	r := newRig(t, 2)
	names := []string{"a/b", `a\b`, "..", "@", "-x", " x ", strings.Repeat("x", 128), strings.Repeat("ä", 64), "\t", "strata-copy-1", string(store.NewID())}
	ids := make(map[string]bool)
	for _, name := range names {
		v := r.create(empty(name))
		ids[v.ID] = true
		if again := r.create(empty(name)); again.ID != v.ID {
			t.Errorf("%q: made twice", name)
		}
		s, err := r.svc.CreateSnapshot(t.Context(), name, v.ID)
		if err != nil || s.Volume != v.ID {
			t.Errorf("snapshot %q: %+v, %v", name, s, err)
		}
	}
	if len(ids) != len(names) {
		t.Errorf("%d volumes of %d names", len(ids), len(names))
	}
	if all, _, err := r.svc.ListSnapshots(t.Context(), "", volume.Page{}); err != nil || len(all) != len(names) {
		t.Errorf("%d snapshots are listed, %v", len(all), err)
	}
}

// TestPoolDefaults: what a request leaves open is the pool's, then the store's.
func TestPoolDefaults(t *testing.T) {
	r := newRig(t, 1)
	r.restart(pool.Settings{
		Policy: store.Policy{Soft: 3, Hard: 9}, BlockSize: 512, Limits: store.Limits{IOPS: 7, Bandwidth: 8}, CloneMode: pool.CloneFlatten,
	})
	v := r.create(empty("v"))
	if v.Info.Policy != (store.Policy{Soft: 3, Hard: 9}) || v.Info.BlockSize != 512 || v.Info.Limits != (store.Limits{IOPS: 7, Bandwidth: 8}) {
		t.Errorf("%+v", v.Info)
	}
	req := empty("w")
	req.BlockSize, req.Tuning = 4096, volume.Tuning{Soft: ptr(5), IOPS: ptr(int64(0))}
	w := r.create(req)
	if w.Info.Policy != (store.Policy{Soft: 5, Hard: 9}) || w.Info.BlockSize != 4096 || w.Info.Limits != (store.Limits{Bandwidth: 8}) {
		t.Errorf("%+v", w.Info)
	}
	r.create(volume.CreateRequest{Name: "c", Volume: w.ID}) // its flatten is done at the next look
	if c := r.create(volume.CreateRequest{Name: "c", Volume: w.ID}); c.Info.Parent != "" || c.Info.BlockSize != 4096 {
		t.Errorf("the pool's clone mode was not used: %+v", c.Info)
	}
}

// TestClones: the three ways to make a volume of another one.
func TestClones(t *testing.T) {
	r := newRig(t, 2)
	src := r.create(empty("src"))
	data := []byte("what the source holds")
	r.write(src, 12345, data)
	snap, err := r.svc.CreateSnapshot(t.Context(), "snap", src.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.write(src, 12345, []byte("what it holds later!!"))
	cow := r.create(volume.CreateRequest{Name: "cow", Snapshot: snap.ID, Required: 8 * mib})
	flat := r.create(volume.CreateRequest{Name: "flat", Snapshot: snap.ID, CloneMode: pool.CloneFlatten})
	whole := r.create(volume.CreateRequest{Name: "whole", Snapshot: snap.ID, CloneMode: pool.CloneCopy})
	if cow.Info.Parent != src.Info.ID || cow.Info.Size != 8*mib || cow.Store != src.Store {
		t.Errorf("cow: %+v", cow)
	}
	if whole.Info.Parent != "" || flat.Info.Size != src.Info.Size {
		t.Errorf("copy: %+v, flatten: %+v", whole.Info, flat.Info)
	}
	for _, v := range []volume.Volume{cow, flat, whole} {
		r.wantData(v, 12345, data)
	}
	r.wantData(cow, 6*mib, make([]byte, 100))
	r.wantClean(4, 1)
}

// TestReadOnlyClones: a volume that nobody writes is not flattened for its depth, and its
// own clones do not inherit that.
func TestReadOnlyClones(t *testing.T) {
	r := newRig(t, 1)
	r.restart(pool.Settings{Policy: store.Policy{Soft: 1, Hard: 1}})
	src := r.create(empty("src"))
	clone := r.create(volume.CreateRequest{Name: "clone", Volume: src.ID})
	snap, err := r.svc.CreateSnapshot(t.Context(), "snap", clone.ID)
	if err != nil {
		t.Fatal(err)
	}
	ro := r.create(volume.CreateRequest{Name: "ro", Snapshot: snap.ID, ReadOnly: true})
	if ro.Info.Depth != 2 || ro.Info.Policy.Soft <= 2 {
		t.Errorf("it was flattened for its depth: %+v", ro.Info)
	}
	r.restart(pool.Settings{})
	rw := r.create(volume.CreateRequest{Name: "rw", Volume: ro.ID})
	if rw.Info.Policy.Soft > 64 || rw.Info.Policy.Hard > 64 {
		t.Errorf("its clone inherited the policy: %+v", rw.Info.Policy)
	}
}

// TestHardLimit: at the hard limit the request is to be repeated, until the flatten that
// it has started is done.
func TestHardLimit(t *testing.T) {
	r := newRig(t, 1)
	v := r.create(empty("v0"))
	for _, name := range []string{"v1", "v2", "v3", "v4"} {
		v = r.create(volume.CreateRequest{Name: name, Volume: v.ID, Tuning: volume.Tuning{Soft: ptr(2), Hard: ptr(2)}})
	}
	if v.Info.Depth > 2 {
		t.Errorf("depth %d", v.Info.Depth)
	}
	r.wantClean(5, 0)
}

// TestBlockSizeIsTheSources: what counts in blocks of one size is of no use in blocks of
// another, so a class does not change it, neither for a clone nor for a copy.
func TestBlockSizeIsTheSources(t *testing.T) {
	r := newRig(t, 2)
	small := empty("small")
	small.BlockSize = 512
	src := r.create(small)
	s, err := r.svc.CreateSnapshot(t.Context(), "s", src.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, full := range map[string]bool{"clone": false, "copy": true} {
		r.net.SetFull(r.addr[src.Store], full)
		v := r.create(volume.CreateRequest{Name: name, Snapshot: s.ID, BlockSize: 4096})
		if v.Info.BlockSize != 512 || (v.Store == src.Store) == full {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
