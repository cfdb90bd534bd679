package storetest

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// TestHideDiscard: discarded and zeroed parent data does not reappear: not after a
// snapshot, in a clone, after flatten, in a snapshot of the clone or after reopening.
func (s *suite) TestHideDiscard() {
	parent := s.create("parent", 8*blk)
	base := s.fill(parent.ID, 0, 8*blk, 'p')
	img := s.clone("img", s.snapshot(parent.ID, "snap").ID)
	s.discard(img.ID, blk, blk)
	s.zero(img.ID, 3*blk, blk, false)
	s.zero(img.ID, 5*blk, blk, true)
	s.fill(img.ID, 6*blk, blk, 'c')
	s.discard(img.ID, 6*blk, blk)
	want := append([]byte(nil), base...)
	for _, b := range []int64{1, 3, 5, 6} {
		clear(want[b*blk : (b+1)*blk])
	}
	s.wantBytes(img.ID, want, "after discard")
	snap := s.snapshot(img.ID, "snap")
	s.wantBytes(img.ID, want, "after a snapshot")
	clone := s.clone("clone", snap.ID)
	direct := s.clone("direct", img.ID)
	views := []store.Info{img, snap, clone, direct}
	s.wantAll(views, want, "after cloning")
	s.must(s.s.Flatten(s.ctx, clone.ID), "flatten the clone")
	s.wantAll(views, want, "after the clone was flattened")
	s.must(s.s.Flatten(s.ctx, img.ID), "flatten the image")
	s.wantAll(views, want, "after the image was flattened")
	s.remove(parent.ID)
	s.wantAll(views, want, "after the parent was removed")
	if s.reopenStore != nil {
		s.reopen()
		s.wantAll(views, want, "after reopening")
	}
}

func (s *suite) wantAll(views []store.Info, want []byte, what string) {
	s.Helper()
	for _, v := range views {
		s.wantBytes(v.ID, want, v.Ref()+" "+what)
	}
}

// TestHideSubBlock: a partial write over a discarded block does not bring the rest of
// the block back, and one over parent data keeps the rest.
func (s *suite) TestHideSubBlock() {
	parent := s.create("parent", 4*blk)
	want := s.fill(parent.ID, 0, 4*blk, 'p')
	img := s.clone("img", parent.ID)
	s.discard(img.ID, 0, 2*blk)
	clear(want[:2*blk])
	copy(want[100:], s.fill(img.ID, 100, 50, 'c'))
	copy(want[3*blk+1:], s.fill(img.ID, 3*blk+1, 1, 'c'))
	s.wantBytes(img.ID, want, "after partial writes")
	snap := s.snapshot(img.ID, "snap")
	old := append([]byte(nil), want...)
	copy(want[200:], s.fill(img.ID, 200, 50, 'd'))
	copy(want[2*blk-1:], s.fill(img.ID, 2*blk-1, 2, 'd'))
	s.wantBytes(img.ID, want, "after partial writes over a snapshot")
	s.wantBytes(snap.ID, old, "the snapshot")
}

// TestHideShrink: data cut off by a shrink never reappears: after growing, in a
// snapshot or clone made then, below or at a parent.
func (s *suite) TestHideShrink() {
	parent := s.create("parent", 16*blk)
	base := random(1, 16*blk)
	s.write(parent.ID, 0, base)
	plain := s.create("plain", 16*blk)
	s.write(plain.ID, 0, base)
	kept := s.snapshot(plain.ID, "kept") // history below the image holds the data
	clone := s.clone("clone", parent.ID)
	written := s.clone("written", parent.ID)
	s.write(written.ID, 0, base)
	want := append(append([]byte(nil), base[:3*blk]...), make([]byte, 17*blk)...)
	for _, img := range []store.Info{plain, clone, written} {
		s.resize(img.ID, 3*blk)
		s.resize(img.ID, 20*blk)
		s.wantBytes(img.ID, want, img.Name+" shrunk and grown")
		snap := s.snapshot(img.ID, "snap")
		child := s.clone(img.Name+"-child", snap.ID)
		direct := s.clone(img.Name+"-direct", img.ID)
		s.wantAll([]store.Info{img, snap, child, direct}, want, "after shrink, grow, snapshot and clone")
		wantOverlap := int64(3)
		if img.Name == "plain" {
			wantOverlap = 0
		}
		if got := s.stat(img.ID).Overlap; got != wantOverlap*blk {
			s.Errorf("%s has overlap %d, want %d blocks", img.Name, got, wantOverlap)
		}
		s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
		s.must(s.s.Flatten(s.ctx, child.ID), "flatten")
		s.wantAll([]store.Info{img, snap, child, direct}, want, "after flatten")
	}
	s.wantBytes(kept.ID, base, "the snapshot of before the shrink")
	s.remove(kept.ID)
	s.wantBytes(plain.ID, want, "the image when that snapshot is gone")
	s.wantBytes(parent.ID, base, "the parent")
}

// TestHideShrinkSteps: a shrink cuts at the block, also where a write went
// over the new end, and growing by steps shows zeros.
func (s *suite) TestHideShrinkSteps() {
	img := s.create("img", 32*blk)
	s.fill(img.ID, 0, 32*blk, 'a')
	want := s.read(img.ID)
	for i, size := range []int64{31, 17, 18, 5, 40, 39, 1, 64, 2, 33} {
		s.resize(img.ID, size*blk)
		if size*blk < int64(len(want)) {
			want = want[:size*blk]
		} else {
			want = append(append([]byte(nil), want...), make([]byte, size*blk-int64(len(want)))...)
		}
		s.wantBytes(img.ID, want, fmt.Sprintf("step %d, size %d blocks", i, size))
		copy(want[len(want)-10:], s.fill(img.ID, size*blk-10, 10, byte('b'+i)))
		if i%3 == 0 {
			s.snapshot(img.ID, fmt.Sprintf("s%d", i))
		}
	}
	s.wantBytes(img.ID, want, "at the end")
}

// TestOverlapOnlyShrinks: size and overlap belong to each view and overlap never rises.
func (s *suite) TestOverlapOnlyShrinks() {
	parent := s.create("parent", 16*blk)
	s.fill(parent.ID, 0, 16*blk, 'p')
	img := s.clone("img", parent.ID)
	wide := s.snapshot(img.ID, "wide")
	for _, step := range []struct{ size, overlap int64 }{{32, 16}, {8, 8}, {12, 8}, {64, 8}, {4, 4}, {64, 4}} {
		s.resize(img.ID, step.size*blk)
		got := s.stat(img.ID)
		if got.Size != step.size*blk || got.Overlap != step.overlap*blk {
			s.Errorf("size %d and overlap %d, want %d and %d blocks", got.Size, got.Overlap, step.size, step.overlap)
		}
	}
	if got := s.stat(wide.ID); got.Overlap != 16*blk || got.Size != 16*blk {
		s.Errorf("the snapshot of before has size %d and overlap %d", got.Size, got.Overlap)
	}
	s.wantRange(wide.ID, 0, 16*blk, 'p', "the snapshot of before")
	s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
	if got := s.stat(img.ID); got.Overlap != 0 || got.Parent != "" || got.ParentName != "" || got.Depth != 0 {
		s.Errorf("a flat image has lineage: %+v", got)
	}
	s.wantRange(wide.ID, 0, 16*blk, 'p', "the snapshot after flatten")
}
