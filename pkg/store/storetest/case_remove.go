package storetest

import (
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// relative is one of a small family: an image with two snapshots, a clone of the first with a
// snapshot of its own, a clone of that, and a clone of the image itself.
type relative struct {
	info store.Info
	want []byte
}

func (s *suite) family() []relative {
	s.Helper()
	var all []relative
	add := func(i store.Info) { all = append(all, relative{i, s.read(i.ID)}) }
	a := s.create("a", 8*blk)
	s.write(a.ID, 0, random(1, 6*blk))
	a1 := s.snapshot(a.ID, "1")
	s.write(a.ID, blk, random(2, blk))
	s.discard(a.ID, 2*blk, blk)
	a2 := s.snapshot(a.ID, "2")
	s.write(a.ID, 3*blk+10, random(3, 100))
	b := s.image(store.Spec{Name: "b", Parent: a1.ID, Size: 12 * blk})
	s.write(b.ID, 4*blk, random(4, blk))
	s.discard(b.ID, 0, blk)
	b1 := s.snapshot(b.ID, "1")
	s.write(b.ID, 9*blk, random(5, blk))
	c := s.clone("c", b1.ID)
	s.resize(c.ID, 5*blk)
	s.resize(c.ID, 8*blk)
	d := s.clone("d", a.ID)
	s.write(d.ID, 5*blk, random(6, 3))
	for _, i := range []store.Info{a, a1, a2, b, b1, c, d} {
		add(i)
	}
	return all
}

// TestRemoveAnyOrder: whatever is removed first, the others show what they showed.
// Every order of the four that everything else hangs on is tried, then the rest.
func (s *suite) TestRemoveAnyOrder() {
	for _, order := range permutations(4) {
		all := s.family()
		victims := make([]int, 0, len(all))
		for _, i := range order {
			victims = append(victims, []int{0, 1, 3, 4}[i]) // a, a@1, b, b@1
		}
		victims = append(victims, 5, 2, 6)
		var story []string
		for _, v := range victims {
			s.remove(all[v].info.ID)
			story = append(story, all[v].info.Ref())
			all[v].want = nil
			s.wantRelatives(all, "after removing "+strings.Join(story, ", "))
		}
		s.settle()
		s.wantCount(0, 0)
	}
}

func (s *suite) wantRelatives(all []relative, what string) {
	s.Helper()
	for _, k := range all {
		if k.want != nil {
			s.wantBytes(k.info.ID, k.want, k.info.Ref()+" "+what)
		}
	}
}

func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for _, p := range permutations(n - 1) {
		for at := range n {
			q := append(append(append([]int(nil), p[:at]...), n-1), p[at:]...)
			all = append(all, q)
		}
	}
	return all
}

// TestRemoveLineage: a removed parent stays known as long as it matters, depth never
// rises by a removal, and what is gone is not found.
func (s *suite) TestRemoveLineage() {
	a := s.create("a", 4*blk)
	s.fill(a.ID, 0, 4*blk, 'a')
	b := s.clone("b", s.snapshot(a.ID, "1").ID)
	s.fill(b.ID, 0, blk, 'b')
	b1 := s.snapshot(b.ID, "1")
	c1, c2 := s.clone("c1", b1.ID), s.clone("c2", b1.ID)
	s.remove(b1.ID)
	got := s.stat(c1.ID)
	if got.Parent != b.ID || got.ParentSnapshot != "" || got.Depth != 2 || !strings.HasPrefix(got.ParentName, "b") {
		s.Errorf("with its snapshot removed the clone is %+v", got)
	}
	s.remove(b.ID)
	for _, id := range []store.ID{b.ID, b1.ID} {
		_, err := s.s.Stat(s.ctx, id)
		s.wantErr(err, "stat of a removed object", store.ErrNotFound)
	}
	s.settle()
	for _, c := range []store.Info{c1, c2} {
		if got := s.stat(c.ID); got.Depth < 1 || got.Depth > 2 || got.Parent == "" || got.ParentName == "" {
			s.Errorf("with its parent removed the clone is %+v", got)
		}
	}
	s.must(s.s.Flatten(s.ctx, c1.ID), "flatten")
	s.remove(a.ID)
	for _, c := range []store.Info{c1, c2} {
		s.wantRange(c.ID, 0, blk, 'b', c.Name)
		s.wantRange(c.ID, blk, 3*blk, 'a', c.Name)
	}
	if got := s.stat(c1.ID); got.Depth != 0 || got.Parent != "" {
		s.Errorf("flattened, with all ancestors removed, the clone is %+v", got)
	}
}

// TestRemoveRefused: open or published objects refuse and stay.
func (s *suite) TestRemoveRefused() {
	img := s.create("img", 2*blk)
	want := s.fill(img.ID, 0, 2*blk, 'a')
	snap := s.snapshot(img.ID, "snap")
	for _, o := range []store.Info{img, snap} {
		d := s.open(o.ID)
		s.wantErr(s.s.Remove(s.ctx, o.ID), "remove of the open "+o.Ref(), store.ErrInUse)
		s.must(d.Close(), "close")
		_, err := s.s.Publish(s.ctx, o.ID, "node-7", store.AccessRead)
		s.must(err, "publish")
		err = s.s.Remove(s.ctx, o.ID)
		s.wantErr(err, "remove of the published "+o.Ref(), store.ErrInUse)
		if err != nil && !strings.Contains(err.Error(), "node-7") {
			s.Errorf("the refusal does not name the node: %v", err)
		}
		s.must(s.s.Unpublish(s.ctx, o.ID, "node-7"), "unpublish")
		s.wantBytes(o.ID, want, o.Ref()+" after a refused removal")
	}
	d := s.open(snap.ID) // an open snapshot does not hold its image
	s.remove(img.ID)
	p := make([]byte, 2*blk)
	_, err := d.ReadAt(p, 0)
	s.must(err, "read the open snapshot of a removed image")
	if why := difference(p, want); why != "" {
		s.Errorf("the open snapshot of a removed image: %s", why)
	}
	s.must(d.Close(), "close")
	s.remove(snap.ID)
	s.wantCount(0, 0)
}

// TestRemoveUnderClone: parents go while a clone is open and in use.
func (s *suite) TestRemoveUnderClone() {
	parent := s.create("parent", 8*blk)
	want := random(1, 8*blk)
	s.write(parent.ID, 0, want)
	snap := s.snapshot(parent.ID, "snap")
	child := s.clone("child", snap.ID)
	d := s.open(child.ID)
	read := func(what string) {
		p := make([]byte, 8*blk)
		_, err := d.ReadAt(p, 0)
		s.must(err, "read")
		if why := difference(p, want); why != "" {
			s.Errorf("%s: %s", what, why)
		}
	}
	read("before")
	s.remove(parent.ID)
	read("with the parent removed")
	s.remove(snap.ID)
	read("with the snapshot removed")
	s.settle()
	read("with background work done")
	_, err := d.WriteAt([]byte("new"), 5*blk+1)
	s.must(err, "write")
	copy(want[5*blk+1:], "new")
	read("after a write")
}

// TestRemoveRounds: restore, snapshot, remove what it came from, again and again;
// nothing builds up.
func (s *suite) TestRemoveRounds() {
	const rounds = 100
	img := s.create("v0", 8*blk)
	want := random(1, 8*blk)
	s.write(img.ID, 0, want)
	soft := 8
	var layers []int
	for i := 1; i <= rounds; i++ {
		snap := s.snapshot(img.ID, "snap")
		next := s.clone(fmt.Sprintf("v%d", i), snap.ID)
		at := int64(i) % 8 * blk
		copy(want[at:], s.fill(next.ID, at, 100, byte(i)))
		s.remove(img.ID)
		s.remove(snap.ID)
		img = next
		s.settle()
		s.wantBytes(img.ID, want, img.Name)
		if got := s.stat(img.ID).Depth; got > soft {
			s.Errorf("round %d: depth %d", i, got)
		}
		status, err := s.s.Status(s.ctx)
		s.must(err, "status")
		layers = append(layers, status.Layers)
	}
	if last := layers[rounds-1]; last > 3*(soft+1) {
		s.Errorf("%d layers are left for one image: %v", last, layers)
	}
	s.wantCount(1, 0)
}
