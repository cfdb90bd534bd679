package storetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// TestCreateDescribes: a new image is described as it was asked for, and reads zero.
func (s *suite) TestCreateDescribes() {
	before := time.Now().Add(-time.Minute)
	img := s.image(store.Spec{Name: "img", Size: 64 * kib, BlockSize: 512,
		Policy: store.Policy{Soft: 3, Hard: 9}, Digest: "fingerprint"})
	if !store.IsID(string(img.ID)) || img.Image != img.ID || img.ImageName != "img" || img.ImageRemoved {
		s.Errorf("identity is %+v", img)
	}
	if img.Kind != store.KindImage || img.Size != 64*kib || img.BlockSize != 512 || img.Digest != "fingerprint" ||
		img.Policy != (store.Policy{Soft: 3, Hard: 9}) || img.State != store.StateReady {
		s.Errorf("description is %+v", img)
	}
	if img.Parent != "" || img.ParentName != "" || img.Depth != 0 || img.Overlap != 0 || img.Snapshots != 0 || img.Node != "" {
		s.Errorf("an empty image has lineage: %+v", img)
	}
	if img.Created.Before(before) || img.Created.After(time.Now().Add(time.Minute)) {
		s.Errorf("created at %s", img.Created)
	}
	s.wantBytes(img.ID, make([]byte, 64*kib), "a new image")
	if got := s.create("plain", blk).BlockSize; got != 4096 {
		s.Errorf("the default block size is %d", got)
	}
}

// TestCreateConflict: a name is given once.
func (s *suite) TestCreateConflict() {
	img := s.create("img", 2*blk)
	s.fill(img.ID, 0, blk, 'a')
	for _, spec := range []store.Spec{
		{Name: "img", Size: 2 * blk}, {Name: "img", Size: blk}, {Name: "img", Parent: img.ID},
		{Name: "img", Size: 2 * blk, Digest: "some"},
	} {
		_, err := s.s.Create(s.ctx, spec)
		s.wantErr(err, "create with a name in use", store.ErrConflict)
	}
	s.wantRange(img.ID, 0, blk, 'a', "after refused creates")
	s.remove(img.ID)
	again := s.create("img", 2*blk)
	if again.ID == img.ID {
		s.Errorf("an id was reused")
	}
	s.wantBytes(again.ID, make([]byte, 2*blk), "an image under the name of a removed one")
	s.wantCount(1, 0)
}

// TestCreateDigest: the same request again answers the same image; another one does not.
func (s *suite) TestCreateDigest() {
	parent := s.create("parent", 2*blk)
	spec := store.Spec{Name: "img", Parent: parent.ID, Digest: strings.Repeat("d", 256)}
	img := s.image(spec)
	s.fill(img.ID, 0, blk, 'a')
	if again := s.image(spec); again.ID != img.ID {
		s.Errorf("repeating a request answers %s, want %s", again.ID, img.ID)
	}
	s.remove(parent.ID)
	if again := s.image(spec); again.ID != img.ID {
		s.Errorf("repeating a request after its parent was removed answers %s, want %s", again.ID, img.ID)
	}
	other := spec
	other.Digest = "another"
	_, err := s.s.Create(s.ctx, other)
	s.wantErr(err, "create with another digest", store.ErrConflict)
	other.Digest = ""
	_, err = s.s.Create(s.ctx, other)
	s.wantErr(err, "create without digest", store.ErrConflict, store.ErrNotFound)
	s.wantRange(img.ID, 0, blk, 'a', "after repeated requests")
	s.remove(img.ID)
	_, err = s.s.Create(s.ctx, spec)
	s.wantErr(err, "the request after its image and parent were removed", store.ErrNotFound)
	s.wantCount(0, 0)
}

// TestCreateInherits: a clone takes block size and policy of its parent unless it
// brings its own.
func (s *suite) TestCreateInherits() {
	parent := s.image(store.Spec{Name: "parent", Size: 4 * blk, BlockSize: 512, Policy: store.Policy{Soft: 3, Hard: 9}})
	snap := s.snapshot(parent.ID, "snap")
	if snap.BlockSize != 512 {
		s.Errorf("a snapshot has block size %d", snap.BlockSize)
	}
	for name, id := range map[string]store.ID{"of-image": parent.ID, "of-snapshot": snap.ID} {
		c := s.clone(name, id)
		if c.BlockSize != 512 || c.Policy != parent.Policy || c.Size != 4*blk || c.Depth != 1 {
			s.Errorf("clone %s inherits badly: %+v", name, c)
		}
	}
	own := s.image(store.Spec{Name: "own", Parent: snap.ID, BlockSize: 4096, Policy: store.Policy{Hard: 7}})
	if own.BlockSize != 4096 || own.Policy != (store.Policy{Soft: 3, Hard: 7}) {
		s.Errorf("a clone with its own block size and hard limit is %+v", own)
	}
}

// TestWrongKind: calls for images refuse snapshots and leave them as they are.
func (s *suite) TestWrongKind() {
	img := s.create("img", blk)
	want := s.fill(img.ID, 0, blk, 'a')
	snap := s.snapshot(img.ID, "snap")
	refusals := []error{store.ErrInvalid, store.ErrNotFound, store.ErrReadOnly}
	_, err := s.s.Snapshot(s.ctx, snap.ID, "again")
	s.wantErr(err, "snapshot of a snapshot", refusals...)
	_, err = s.s.Resize(s.ctx, snap.ID, 2*blk)
	s.wantErr(err, "resize of a snapshot", refusals...)
	s.wantErr(s.s.Flatten(s.ctx, snap.ID), "flatten of a snapshot", refusals...)
	s.wantErr(s.s.Revert(s.ctx, snap.ID, snap.ID), "revert of a snapshot", refusals...)
	s.wantErr(s.s.Revert(s.ctx, img.ID, img.ID), "revert to an image", refusals...)
	s.wantBytes(snap.ID, want, "the snapshot after refused calls")
}

// TestContextEnds: a call whose context has ended changes nothing.
func (s *suite) TestContextEnds() {
	img := s.create("img", blk)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.s.Create(ctx, store.Spec{Name: "late", Size: blk})
	if err != nil && !errors.Is(err, context.Canceled) {
		s.Errorf("create with an ended context answers %v", err)
	}
	if err == nil {
		s.wantCount(2, 0) // too fast to notice is allowed, half-made is not
		return
	}
	s.wantCount(1, 0)
	if _, err := s.s.Stat(s.ctx, img.ID); err != nil {
		s.Errorf("stat after a cancelled call: %v", err)
	}
}

// TestStoreClosed: a closed store and its devices say so, and nothing hangs.
func (s *suite) TestStoreClosed() {
	img := s.create("img", blk)
	d := s.open(img.ID)
	s.closed = true
	s.must(s.s.Close(), "close")
	_, err := s.s.Stat(s.ctx, img.ID)
	s.wantErr(err, "stat of a closed store", store.ErrClosed)
	_, err = s.s.Create(s.ctx, store.Spec{Name: "late", Size: blk})
	s.wantErr(err, "create in a closed store", store.ErrClosed)
	_, err = d.WriteAt([]byte("x"), 0)
	s.wantErr(err, "write to a device of a closed store", store.ErrClosed)
	_, err = d.ReadAt(make([]byte, 1), 0)
	s.wantErr(err, "read from a device of a closed store", store.ErrClosed)
	d.Close()
}
