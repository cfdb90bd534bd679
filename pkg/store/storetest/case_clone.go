package storetest

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// TestCloneIsolation: parent, snapshot and clone go their own ways.
func (s *suite) TestCloneIsolation() {
	parent := s.create("parent", 8*blk)
	base := random(1, 8*blk)
	s.write(parent.ID, 0, base)
	snap := s.snapshot(parent.ID, "snap")
	a, b := s.clone("a", snap.ID), s.clone("b", snap.ID)
	if a.Parent != parent.ID || a.ParentSnapshot != snap.ID || a.ParentName != "parent@snap" ||
		a.Depth != 1 || a.Overlap != 8*blk || a.Size != 8*blk {
		s.Errorf("the clone is described as %+v", a)
	}
	wantA := append([]byte(nil), base...)
	copy(wantA[blk:], s.fill(a.ID, blk, blk, 'a'))
	copy(wantA[5*blk+17:], s.fill(a.ID, 5*blk+17, 100, 'a'))
	s.fill(parent.ID, 0, 8*blk, 'p')
	s.wantBytes(a.ID, wantA, "the clone that was written")
	s.wantBytes(b.ID, base, "its sibling")
	s.wantBytes(snap.ID, base, "the snapshot")
	s.wantRange(parent.ID, 0, 8*blk, 'p', "the parent")
}

// TestCloneOfImage: the clone shows the image as it was; later writes stay apart.
func (s *suite) TestCloneOfImage() {
	parent := s.create("parent", 4*blk)
	base := s.fill(parent.ID, 0, 4*blk, 'a')
	var clones []store.Info
	for i := range 3 { // of an unchanged image: one internal snapshot for all
		clones = append(clones, s.clone(fmt.Sprintf("same-%d", i), parent.ID))
	}
	s.fill(parent.ID, 0, blk, 'b')
	later := s.clone("later", parent.ID)
	for _, c := range clones {
		s.wantBytes(c.ID, base, "a clone of the image before the write")
		if c.Parent != parent.ID || c.ParentName != "parent" || c.ParentSnapshot != "" || c.Depth != 1 {
			s.Errorf("the clone is described as %+v", c)
		}
	}
	s.wantRange(later.ID, 0, blk, 'b', "a clone after the write")
	s.wantRange(later.ID, blk, 3*blk, 'a', "a clone after the write")
	s.wantCount(5, 0) // internal snapshots are nobody's business
	if got := s.stat(parent.ID).Snapshots; got != 0 {
		s.Errorf("internal snapshots are counted: %d", got)
	}
	s.fill(later.ID, blk, blk, 'c')
	s.wantRange(parent.ID, blk, 3*blk, 'a', "the parent")
}

// TestCloneOfEmpty: an image nothing was written to can be a parent.
func (s *suite) TestCloneOfEmpty() {
	parent := s.create("parent", 4*blk)
	a := s.clone("a", parent.ID)
	b := s.clone("b", a.ID)
	c := s.clone("c", s.snapshot(b.ID, "snap").ID)
	want := append(make([]byte, 3*blk), s.fill(c.ID, 3*blk, blk, 'c')...)
	s.wantBytes(c.ID, want, "a clone of nothing")
	s.wantBytes(b.ID, make([]byte, 4*blk), "an empty clone")
	if c.Depth != 3 {
		s.Errorf("depth is %d, want 3", c.Depth)
	}
}

// TestCloneLarger: beyond the overlap a clone reads zero, whatever the parent gets.
func (s *suite) TestCloneLarger() {
	parent := s.create("parent", 4*blk)
	base := s.fill(parent.ID, 0, 4*blk, 'a')
	snap := s.snapshot(parent.ID, "snap")
	s.resize(parent.ID, 16*blk)
	s.fill(parent.ID, 0, 16*blk, 'p')
	wide := s.snapshot(parent.ID, "wide")
	child := s.image(store.Spec{Name: "child", Parent: snap.ID, Size: 16 * blk})
	want := append(append([]byte(nil), base...), make([]byte, 12*blk)...)
	s.wantBytes(child.ID, want, "a clone larger than its parent")
	if child.Overlap != 4*blk || child.Size != 16*blk {
		s.Errorf("overlap %d and size %d", child.Overlap, child.Size)
	}
	s.fill(child.ID, 6*blk, 10, 'c')
	copy(want[6*blk:], "cccccccccc")
	grand := s.image(store.Spec{Name: "grand", Parent: child.ID, Size: 20 * blk})
	s.wantBytes(grand.ID, append(want, make([]byte, 4*blk)...), "a still larger clone of the clone")
	s.must(s.s.Flatten(s.ctx, child.ID), "flatten")
	s.wantBytes(child.ID, want, "the larger clone, flattened")
	s.wantRange(wide.ID, 0, 16*blk, 'p', "the wide snapshot")
}

// TestCloneSmaller: a clone cannot be smaller than its parent.
func (s *suite) TestCloneSmaller() {
	parent := s.create("parent", 4*blk)
	snap := s.snapshot(parent.ID, "snap")
	s.resize(parent.ID, 8*blk)
	for id, size := range map[store.ID]int64{snap.ID: 3 * blk, parent.ID: 4 * blk} {
		_, err := s.s.Create(s.ctx, store.Spec{Name: "child", Parent: id, Size: size})
		s.wantErr(err, "clone smaller than its parent", store.ErrRange)
	}
	s.wantCount(1, 1)
	s.image(store.Spec{Name: "child", Parent: snap.ID, Size: 4 * blk})
}

// TestCloneDepthSeven: a chain of seven links volume, snapshot, volume counts seven,
// for images and snapshots, and the bytes of every link show through.
func (s *suite) TestCloneDepthSeven() {
	img := s.create("v0", 8*blk)
	want := make([]byte, 8*blk)
	for i := range 8 {
		at := int64(i) * blk
		copy(want[at:], s.fill(img.ID, at, blk, byte('a'+i)))
		s.wantBytes(img.ID, want, img.Name)
		snap := s.snapshot(img.ID, "snap")
		s.snapshot(img.ID, "more") // snapshots of one image add no depth
		if got := s.stat(img.ID); got.Depth != i || snap.Depth != i {
			s.Errorf("%s has depth %d and its snapshot %d, want %d", img.Name, got.Depth, snap.Depth, i)
		}
		if i < 7 {
			img = s.clone(fmt.Sprintf("v%d", i+1), snap.ID)
		}
	}
}

// TestCloneParallel: a hundred clones of one snapshot are made at the same time.
func (s *suite) TestCloneParallel() {
	parent := s.create("parent", 16*blk)
	base := random(1, 16*blk)
	s.write(parent.ID, 0, base)
	snap := s.snapshot(parent.ID, "snap")
	clones, errs := make([]store.Info, 100), make([]error, 100)
	var wg sync.WaitGroup
	for i := range clones {
		wg.Go(func() {
			clones[i], errs[i] = s.s.Create(s.ctx, store.Spec{Name: fmt.Sprintf("c%02d", i), Parent: snap.ID})
			if errs[i] == nil {
				errs[i] = stamp(s, clones[i].ID, byte(i))
			}
		})
	}
	wg.Wait()
	seen := make(map[store.ID]bool)
	for i, c := range clones {
		s.must(errs[i], "clone %d", i)
		want := append([]byte(nil), base...)
		copy(want[blk:], bytes.Repeat([]byte{byte(i)}, int(blk)))
		s.wantBytes(c.ID, want, c.Name)
		seen[c.ID] = true
	}
	children, err := s.s.Children(s.ctx, snap.ID)
	s.must(err, "children")
	if len(seen) != 100 || len(children) != 100 {
		s.Errorf("%d clones, %d children", len(seen), len(children))
	}
	s.wantBytes(snap.ID, base, "the snapshot")
	s.wantCount(101, 1)
}

// stamp writes the second block without failing the test, for use in goroutines.
func stamp(s *suite, id store.ID, letter byte) error {
	d, err := s.s.Open(s.ctx, id)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.WriteAt(bytes.Repeat([]byte{letter}, int(blk)), blk)
	return err
}

// TestCreateParallelName: of many requests for one name one wins; with equal digests
// all get the same image.
func (s *suite) TestCreateParallelName() {
	for _, digest := range []string{"", "same"} {
		ids, errs := make([]store.ID, 20), make([]error, 20)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				var info store.Info
				info, errs[i] = s.s.Create(s.ctx, store.Spec{Name: "img" + digest, Size: blk, Digest: digest})
				ids[i] = info.ID
			})
		}
		wg.Wait()
		won := make(map[store.ID]int)
		for i, err := range errs {
			if err == nil {
				won[ids[i]]++
				continue
			}
			s.wantErr(err, "create that lost", store.ErrConflict)
		}
		if len(won) != 1 {
			s.Errorf("digest %q: %d images were made", digest, len(won))
		}
		for _, n := range won {
			if digest == "" && n != 1 || digest != "" && n != len(ids) {
				s.Errorf("digest %q: %d requests got the image", digest, n)
			}
		}
	}
	s.wantCount(2, 0)
}
