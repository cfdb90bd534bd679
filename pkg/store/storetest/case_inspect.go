package storetest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// TestWalkOrder: images in the order of names, each before its snapshots, every object
// once; fn may use the store and end the walk.
func (s *suite) TestWalkOrder() {
	for _, name := range []string{"m", "a", "z", "aa", "B", "ü", "a b"} {
		img := s.create(name, blk)
		for _, snap := range []string{"2", "10", "1"} {
			s.snapshot(img.ID, snap)
		}
	}
	m, err := s.s.Lookup(s.ctx, "m")
	s.must(err, "look up")
	s.remove(m.ID)
	var lastImage, lastSnap string
	seen := make(map[store.ID]bool)
	s.must(s.s.Walk(s.ctx, func(i store.Info) error {
		if _, err := s.s.Stat(s.ctx, i.ID); err != nil {
			return fmt.Errorf("stat in walk: %w", err)
		}
		switch {
		case seen[i.ID]:
			s.Errorf("%s comes twice", i.Ref())
		case i.Kind == store.KindImage:
			if i.Name <= lastImage {
				s.Errorf("image %q comes after %q", i.Name, lastImage)
			}
			lastImage, lastSnap = i.Name, ""
		case i.ImageRemoved: // somewhere
		case !seen[i.Image] || i.ImageName != lastImage || i.Name <= lastSnap:
			s.Errorf("snapshot %q comes after image %q and snapshot %q", i.Ref(), lastImage, lastSnap)
		default:
			lastSnap = i.Name
		}
		seen[i.ID] = true
		return nil
	}), "walk")
	if len(seen) != 6+21 {
		s.Errorf("walk finds %d objects, want 27", len(seen))
	}
	stop, calls := errors.New("stop"), 0
	err = s.s.Walk(s.ctx, func(store.Info) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		s.Errorf("a walk that fn ends answers %v after %d calls", err, calls)
	}
}

// TestLookup: references lead to what they name, exactly.
func (s *suite) TestLookup() {
	img := s.create("img", blk)
	snap := s.snapshot(img.ID, "snap")
	same := s.snapshot(img.ID, "img")
	for ref, want := range map[string]store.ID{"img": img.ID, "img@snap": snap.ID, "img@img": same.ID} {
		got, err := s.s.Lookup(s.ctx, ref)
		if err != nil || got.ID != want || got.Ref() != ref {
			s.Errorf("look up %q: %+v %v", ref, got, err)
		}
	}
	for _, ref := range []string{"Img", "im", "snap", "img@Snap"} {
		_, err := s.s.Lookup(s.ctx, ref)
		s.wantErr(err, fmt.Sprintf("look up %q", ref), store.ErrNotFound)
	}
	for _, ref := range []string{"", "@", "@snap", "img@", "img@snap@snap", "a/b"} {
		_, err := s.s.Lookup(s.ctx, ref)
		s.wantErr(err, fmt.Sprintf("look up %q", ref), store.ErrInvalid)
	}
}

// TestChildren: direct, live clones of an image or snapshot, and no others.
func (s *suite) TestChildren() {
	a := s.create("a", blk)
	s.fill(a.ID, 0, blk, '1')
	a1 := s.snapshot(a.ID, "1")
	s.fill(a.ID, 0, blk, '2')
	a2 := s.snapshot(a.ID, "2")
	s.fill(a.ID, 0, blk, '3')
	b, c, d := s.clone("b", a1.ID), s.clone("c", a2.ID), s.clone("d", a.ID)
	s.clone("e", b.ID)
	gone := s.clone("gone", a1.ID)
	s.remove(gone.ID)
	s.wantChildren(a.ID, b, c, d)
	s.wantChildren(a1.ID, b)
	s.wantChildren(a2.ID, c)
	s.must(s.s.Flatten(s.ctx, c.ID), "flatten")
	s.wantChildren(a.ID, b, d)
	s.wantChildren(a2.ID)
}

func (s *suite) wantChildren(id store.ID, want ...store.Info) {
	s.Helper()
	got, err := s.s.Children(s.ctx, id)
	s.must(err, "children")
	var gotNames, wantNames []string
	for _, i := range got {
		gotNames = append(gotNames, i.Name)
	}
	for _, i := range want {
		wantNames = append(wantNames, i.Name)
	}
	if strings.Join(gotNames, " ") != strings.Join(wantNames, " ") {
		s.Errorf("children of %s are %v, want %v", s.stat(id).Ref(), gotNames, wantNames)
	}
}

// TestUsage: sums fit what is visible, sharing shows on both sides, zeros cost nothing,
// and removed objects that are kept alive are named.
func (s *suite) TestUsage() {
	img := s.create("img", 32*blk)
	s.wantUsage(img.ID, 0, 0)
	s.fill(img.ID, 0, 10*blk, 'a')
	s.discard(img.ID, 20*blk, 4*blk)
	s.zero(img.ID, 8*blk, 2*blk, false)
	s.wantUsage(img.ID, 8*blk, 0)
	snap := s.snapshot(img.ID, "snap")
	s.wantUsage(img.ID, 0, 8*blk)
	s.wantUsage(snap.ID, 0, 8*blk)
	s.fill(img.ID, 0, 3*blk, 'b')
	if !s.lim.CoarseUsage {
		s.wantUsage(img.ID, 3*blk, 5*blk)
		s.wantUsage(snap.ID, 3*blk, 5*blk)
	}
	a, b := s.clone("a", snap.ID), s.clone("b", snap.ID)
	s.wantUsage(a.ID, 0, 8*blk)
	s.remove(snap.ID)
	s.remove(img.ID)
	s.settle()
	for _, id := range []store.ID{a.ID, b.ID} {
		u := s.wantUsage(id, 0, 8*blk)
		if u.Retained != 8*blk || len(u.RetainedFor) == 0 || !strings.Contains(strings.Join(u.RetainedFor, " "), "img") {
			s.Errorf("a clone of removed objects retains %d bytes for %q", u.Retained, u.RetainedFor)
		}
	}
	s.must(s.s.Flatten(s.ctx, a.ID), "flatten")
	s.settle()
	if u := s.wantUsage(a.ID, 8*blk, 0); u.Retained != 0 || len(u.RetainedFor) != 0 {
		s.Errorf("a flat image retains %+v", u)
	}
}

func (s *suite) wantUsage(id store.ID, own, shared int64) store.Usage {
	s.Helper()
	u, err := s.s.Usage(s.ctx, id)
	s.must(err, "usage")
	info := s.stat(id)
	if u.ID != id || u.Size != info.Size || u.Own != own || u.Shared != shared {
		s.Errorf("usage of %s is %+v, want own %d and shared %d", info.Ref(), u, own, shared)
	}
	if u.Retained > u.Own+u.Shared || (u.Retained > 0) != (len(u.RetainedFor) > 0) {
		s.Errorf("usage of %s retains more than there is, or without a reason: %+v", info.Ref(), u)
	}
	return u
}

// TestStatus: the store names itself and counts; Check finds nothing.
func (s *suite) TestStatus() {
	first, err := s.s.Status(s.ctx)
	s.must(err, "status")
	if first.UUID == "" || first.Backend == "" || first.Images != 0 || first.Snapshots != 0 || first.Free > first.Total {
		s.Errorf("status of an empty store is %+v", first)
	}
	img := s.create("img", blk)
	s.snapshot(img.ID, "snap")
	s.clone("clone", img.ID)
	s.wantCount(2, 1)
	got, err := s.s.Status(s.ctx)
	s.must(err, "status")
	if got.UUID != first.UUID || len(got.Faulty) != 0 || got.Layers < 2 {
		s.Errorf("status is %+v", got)
	}
	s.checkClean()
	if s.reopenStore != nil {
		s.reopen()
		again, err := s.s.Status(s.ctx)
		s.must(err, "status")
		if again.UUID != first.UUID {
			s.Errorf("the store's UUID became %s, was %s", again.UUID, first.UUID)
		}
		s.wantCount(2, 1)
	}
}
