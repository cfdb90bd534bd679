package storetest

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// TestSnapshotIsolation: a snapshot never changes, whatever happens to its image.
func (s *suite) TestSnapshotIsolation() {
	img := s.create("img", 8*blk)
	want := random(1, 8*blk)
	s.write(img.ID, 0, want)
	snap := s.snapshot(img.ID, "snap")
	if snap.Kind != store.KindSnapshot || snap.Image != img.ID || snap.ImageName != "img" ||
		snap.Size != 8*blk || snap.Depth != 0 || snap.Ref() != "img@snap" {
		s.Errorf("the snapshot is described as %+v", snap)
	}
	s.fill(img.ID, 0, blk, 'b')
	s.fill(img.ID, 3*blk+5, 10, 'b')
	s.discard(img.ID, 4*blk, blk)
	s.zero(img.ID, 5*blk, blk+1, false)
	s.wantBytes(snap.ID, want, "the snapshot after writes to its image")
	s.resize(img.ID, 2*blk)
	s.wantBytes(snap.ID, want, "the snapshot after its image shrank")
	s.resize(img.ID, 16*blk)
	s.fill(img.ID, 0, 16*blk, 'c')
	s.wantBytes(snap.ID, want, "the snapshot after its image grew")
	if got := s.stat(snap.ID).Size; got != 8*blk {
		s.Errorf("the snapshot's size became %d", got)
	}
	s.remove(img.ID)
	s.wantBytes(snap.ID, want, "the snapshot after its image was removed")
}

// TestSnapshotHasAnswered: what was answered on an open device is in the next snapshot
// and in the next clone, without a flush.
func (s *suite) TestSnapshotHasAnswered() {
	img := s.create("img", 8*blk)
	want := s.fill(img.ID, 0, 8*blk, 'a')
	d := s.open(img.ID)
	for i := range int64(8) {
		p := random(uint64(i), 700)
		_, err := d.WriteAt(p, i*blk+5)
		s.must(err, "write")
		copy(want[i*blk+5:], p)
		switch i % 4 {
		case 1:
			s.must(d.Discard(i*blk, blk), "discard")
			clear(want[i*blk : (i+1)*blk])
		case 2:
			s.must(d.Zero(i*blk+10, 100, false), "zero")
			clear(want[i*blk+10 : i*blk+110])
		}
		view := store.Info{}
		if i%2 == 0 {
			view = s.snapshot(img.ID, fmt.Sprintf("s%d", i))
		} else {
			view = s.clone(fmt.Sprintf("c%d", i), img.ID)
		}
		s.wantBytes(view.ID, want, view.Ref())
	}
}

// TestSnapshotMany: every snapshot shows its own moment, also when others go.
func (s *suite) TestSnapshotMany() {
	img := s.create("img", 16*blk)
	state := make([]byte, 16*blk)
	var ids []store.ID
	var want [][]byte
	for i := range 24 {
		p := random(uint64(100+i), blk)
		at := int64(i*5%16) * blk
		s.write(img.ID, at, p)
		copy(state[at:], p)
		if i%5 == 4 {
			gap := int64(i*3%16) * blk
			s.discard(img.ID, gap, blk)
			clear(state[gap : gap+blk])
		}
		ids = append(ids, s.snapshot(img.ID, fmt.Sprintf("s%02d", i)).ID)
		want = append(want, append([]byte(nil), state...))
	}
	if got := s.stat(img.ID).Snapshots; got != 24 {
		s.Errorf("the image counts %d snapshots, want 24", got)
	}
	for i := 1; i < 24; i += 2 {
		s.remove(ids[i])
	}
	for i := 0; i < 24; i += 2 {
		s.wantBytes(ids[i], want[i], fmt.Sprintf("snapshot %d", i))
	}
	s.wantBytes(img.ID, state, "the image")
	if got := s.stat(img.ID).Snapshots; got != 12 {
		s.Errorf("the image counts %d snapshots, want 12", got)
	}
}

// TestSnapshotConflict: a name is given once an image, and is free after removal.
func (s *suite) TestSnapshotConflict() {
	a, b := s.create("a", blk), s.create("b", blk)
	snap := s.snapshot(a.ID, "snap")
	_, err := s.s.Snapshot(s.ctx, a.ID, "snap")
	s.wantErr(err, "snapshot with a name in use", store.ErrConflict)
	s.snapshot(b.ID, "snap") // the other image's name space
	s.remove(snap.ID)
	again := s.snapshot(a.ID, "snap")
	if again.ID == snap.ID {
		s.Errorf("a snapshot id was reused")
	}
	s.wantCount(2, 2)
}

// TestSnapshotOutlivesImage: it keeps its names, can be looked up until the image's
// name is taken again, cloned, and removed.
func (s *suite) TestSnapshotOutlivesImage() {
	img := s.create("img", 2*blk)
	want := s.fill(img.ID, 0, 2*blk, 'a')
	snap := s.snapshot(img.ID, "snap")
	s.remove(img.ID)
	got := s.stat(snap.ID)
	if !got.ImageRemoved || got.ImageName != "img" || got.Image != img.ID || got.Name != "snap" {
		s.Errorf("after its image was removed the snapshot is %+v", got)
	}
	found, err := s.s.Lookup(s.ctx, "img@snap")
	if err != nil || found.ID != snap.ID {
		s.Errorf("look up a snapshot whose image was removed: %v %v", found.ID, err)
	}
	child := s.clone("child", snap.ID)
	s.wantBytes(child.ID, want, "a clone of a snapshot whose image was removed")
	again := s.create("img", blk)
	second := s.snapshot(again.ID, "snap")
	found, err = s.s.Lookup(s.ctx, "img@snap")
	if err != nil || found.ID != second.ID {
		s.Errorf("the name leads to %v %v, want the snapshot of the live image", found.ID, err)
	}
	s.wantErr(s.s.Revert(s.ctx, again.ID, snap.ID), "revert to a snapshot of a removed image", store.ErrInvalid)
	s.remove(snap.ID)
	s.wantBytes(child.ID, want, "the clone after everything above it was removed")
}

// TestRevert: the image shows the snapshot, its size included; all snapshots stay.
func (s *suite) TestRevert() {
	img := s.create("img", 8*blk)
	first := random(1, 8*blk)
	s.write(img.ID, 0, first)
	s1 := s.snapshot(img.ID, "s1")
	second := append([]byte(nil), first...)
	copy(second[2*blk:], s.fill(img.ID, 2*blk, blk, 'b'))
	s.discard(img.ID, 3*blk, blk)
	clear(second[3*blk : 4*blk])
	s2 := s.snapshot(img.ID, "s2")
	s.resize(img.ID, 4*blk)
	s.fill(img.ID, 0, 4*blk, 'c')

	s.must(s.s.Revert(s.ctx, img.ID, s1.ID), "revert to the first")
	s.wantBytes(img.ID, first, "after the revert to the first")
	s.fill(img.ID, blk, blk, 'd')
	s.wantBytes(s1.ID, first, "the first snapshot")
	s.wantBytes(s2.ID, second, "the second snapshot")

	s.must(s.s.Revert(s.ctx, img.ID, s2.ID), "revert to the second, off the path")
	s.wantBytes(img.ID, second, "after the revert to the second")
	s3 := s.snapshot(img.ID, "s3")
	s.remove(s1.ID)
	s.remove(s2.ID)
	s.wantBytes(s3.ID, second, "the third snapshot, first and second removed")
	s.wantBytes(img.ID, second, "the image, first and second removed")
	if got := s.stat(img.ID); got.Snapshots != 1 || got.Size != 8*blk {
		s.Errorf("after the reverts the image is %+v", got)
	}
}

// TestRevertRefused: only own snapshots, and not under an open device or publication.
func (s *suite) TestRevertRefused() {
	img, other := s.create("img", 2*blk), s.create("other", 2*blk)
	snap, foreign := s.snapshot(img.ID, "snap"), s.snapshot(other.ID, "snap")
	want := s.fill(img.ID, 0, 2*blk, 'a')
	s.wantErr(s.s.Revert(s.ctx, img.ID, foreign.ID), "revert to another image's snapshot", store.ErrInvalid)
	d := s.open(img.ID)
	s.wantErr(s.s.Revert(s.ctx, img.ID, snap.ID), "revert while open", store.ErrInUse)
	s.must(d.Close(), "close")
	_, err := s.s.Publish(s.ctx, img.ID, "node", store.AccessWrite)
	s.must(err, "publish")
	s.wantErr(s.s.Revert(s.ctx, img.ID, snap.ID), "revert while published", store.ErrInUse)
	s.must(s.s.Unpublish(s.ctx, img.ID, "node"), "unpublish")
	s.wantBytes(img.ID, want, "after refused reverts")
	s.must(s.s.Revert(s.ctx, img.ID, snap.ID), "revert")
	s.wantBytes(img.ID, make([]byte, 2*blk), "after the revert")
}

// TestRevertClone: the revert of a clone brings back the overlap of the snapshot, and
// no more of the parent than that.
func (s *suite) TestRevertClone() {
	parent := s.create("parent", 8*blk)
	base := random(1, 8*blk)
	s.write(parent.ID, 0, base)
	img := s.clone("img", parent.ID)
	wide := s.snapshot(img.ID, "wide")
	s.resize(img.ID, 2*blk)
	narrow := s.snapshot(img.ID, "narrow")
	s.resize(img.ID, 8*blk)
	cut := append(append([]byte(nil), base[:2*blk]...), make([]byte, 6*blk)...)
	s.wantBytes(img.ID, cut, "shrunk and grown")
	s.must(s.s.Revert(s.ctx, img.ID, wide.ID), "revert to the wide one")
	s.wantBytes(img.ID, base, "after the revert to the wide one")
	s.must(s.s.Revert(s.ctx, img.ID, narrow.ID), "revert to the narrow one")
	s.resize(img.ID, 8*blk)
	s.wantBytes(img.ID, cut, "reverted to the narrow one and grown")
	if got := s.stat(img.ID).Overlap; got != 2*blk {
		s.Errorf("overlap is %d, want %d", got, 2*blk)
	}
}

// TestSnapshotReopen: images, snapshots, clones and their bytes are there after a
// close and open, and so are names, sizes and lineage.
func (s *suite) TestSnapshotReopen() {
	img := s.image(store.Spec{Name: "img", Size: 8 * blk, BlockSize: 512, Digest: "d"})
	first := random(1, 8*blk)
	s.write(img.ID, 0, first)
	snap := s.snapshot(img.ID, "snap")
	s.fill(img.ID, 0, blk, 'b')
	child := s.image(store.Spec{Name: "child", Parent: snap.ID, Size: 12 * blk})
	s.discard(child.ID, blk, blk)
	second := append(append([]byte(nil), first...), make([]byte, 4*blk)...)
	clear(second[blk : 2*blk])
	for range 2 {
		before := s.all()
		s.reopen()
		after := s.all()
		for id, want := range before {
			got := after[id]
			want.Created, got.Created = want.Created.UTC().Round(0), got.Created.UTC().Round(0)
			if got != want {
				s.Errorf("after reopening %s is\n%+v, want\n%+v", want.Ref(), got, want)
			}
		}
		if len(after) != len(before) {
			s.Errorf("%d objects became %d", len(before), len(after))
		}
		s.wantBytes(snap.ID, first, "the snapshot after reopening")
		s.wantBytes(child.ID, second, "the clone after reopening")
		s.wantRange(img.ID, 0, blk, 'b', "the image after reopening")
		s.fill(img.ID, 7*blk, blk, 'e')
	}
}

// all describes every object by id.
func (s *suite) all() map[store.ID]store.Info {
	s.Helper()
	all := make(map[store.ID]store.Info)
	s.must(s.s.Walk(s.ctx, func(i store.Info) error { all[i.ID] = i; return nil }), "walk")
	return all
}
