package storetest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// TestDiffExact: a diff lists what was written, zeroed, discarded or cut off between
// two moments, and nothing that was not touched.
func (s *suite) TestDiffExact() {
	parent := s.create("parent", 16*blk)
	s.fill(parent.ID, 0, 16*blk, 'p')
	img := s.clone("img", parent.ID)
	s.fill(img.ID, 0, blk, 'a')
	s1 := s.snapshot(img.ID, "1")
	s.fill(img.ID, 2*blk, blk, 'b')
	s.fill(img.ID, 4*blk+7, 1, 'b')
	s2 := s.snapshot(img.ID, "2")
	s.discard(img.ID, 6*blk, blk)
	s.zero(img.ID, 8*blk, 2*blk, false)
	s3 := s.snapshot(img.ID, "3")
	s.resize(img.ID, 12*blk)
	s.resize(img.ID, 16*blk)
	s.wantDiff(s1.ID, s2.ID, []int64{2, 4}, nil)
	s.wantDiff(s2.ID, s3.ID, nil, []int64{6, 8, 9})
	s.wantDiff(s1.ID, s3.ID, []int64{2, 4}, []int64{6, 8, 9})
	s.wantDiff(s3.ID, img.ID, nil, []int64{12, 13, 14, 15})
	s.wantDiff(s1.ID, img.ID, []int64{2, 4}, []int64{6, 8, 9, 12, 13, 14, 15})
	s.remove(s2.ID)
	s.wantDiff(s1.ID, s3.ID, []int64{2, 4}, []int64{6, 8, 9})
	s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
	s.wantDiff(s1.ID, s3.ID, []int64{2, 4}, []int64{6, 8, 9}) // flatten is invisible
	s.wantDiff(s1.ID, s1.ID, nil, nil)
}

// wantDiff requires that the diff names exactly these blocks as data and as zero.
func (s *suite) wantDiff(from, to store.ID, data, zero []int64) {
	s.Helper()
	got := make(map[int64]string)
	for _, e := range s.diff(from, to) {
		for b := e.Offset / blk; b*blk < e.Offset+e.Length; b++ {
			got[b] = "data"
			if e.Zero {
				got[b] = "zero"
			}
		}
	}
	want := make(map[int64]string)
	for _, b := range data {
		want[b] = "data"
	}
	for _, b := range zero {
		want[b] = "zero"
	}
	if a, b := fmt.Sprint(got), fmt.Sprint(want); a != b {
		s.Errorf("diff from %q to %s is %s, want %s", from, s.stat(to).Ref(), a, b)
	}
}

// diff collects a diff and requires that it is in order and inside the object.
func (s *suite) diff(from, to store.ID) []store.Extent {
	s.Helper()
	var all []store.Extent
	next, size := int64(0), s.stat(to).Size
	s.must(s.s.Diff(s.ctx, from, to, func(e store.Extent) error {
		if e.Offset < next || e.Length <= 0 || e.Offset+e.Length > size {
			s.Errorf("extent %+v comes after %d in a diff of %d bytes", e, next, size)
		}
		next = e.Offset + e.Length
		all = append(all, e)
		return nil
	}), "diff")
	return all
}

// TestDiffFromNothing: without a start, everything that is not a hole is listed.
func (s *suite) TestDiffFromNothing() {
	parent := s.create("parent", 8*blk)
	s.fill(parent.ID, blk, 2*blk, 'p')
	s.wantDiff("", parent.ID, []int64{1, 2}, nil)
	img := s.clone("img", parent.ID)
	s.fill(img.ID, 5*blk+1, 1, 'a')
	s.wantDiff("", img.ID, []int64{1, 2, 5}, nil)
	s.discard(img.ID, 2*blk, blk) // a hole now: may be listed, as zero
	for _, e := range s.diff("", img.ID) {
		first, last := e.Offset/blk, (e.Offset+e.Length-1)/blk
		if e.Zero != (first == 2 && last == 2) || !e.Zero && first != last {
			s.Errorf("after a discard the diff from nothing lists %+v", e)
		}
	}
	s.wantBytes(img.ID, s.applied(nil, "", img.ID), "the diff from nothing, applied to nothing,")
}

// TestDiffApply: applying a diff to a copy of the older state gives the newer one,
// through reverts, resizes, removals and flattens.
func (s *suite) TestDiffApply() {
	parent := s.create("parent", 24*blk)
	s.write(parent.ID, 0, random(1, 24*blk))
	img := s.clone("img", parent.ID)
	last := s.snapshot(img.ID, "s0")
	state := s.read(last.ID)
	for i := 1; i <= 20; i++ {
		at := int64(i*7%20) * blk
		switch i % 6 {
		case 0:
			s.discard(img.ID, at, 3*blk)
		case 1:
			s.zero(img.ID, at+100, 2*blk, true)
		case 2:
			s.resize(img.ID, int64(20+i%5)*blk)
		case 3:
			s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
		default:
			s.write(img.ID, at+int64(i), random(uint64(i), blk))
		}
		next := s.snapshot(img.ID, fmt.Sprintf("s%d", i))
		state = s.applied(state, last.ID, next.ID)
		s.wantBytes(next.ID, state, fmt.Sprintf("the diff of step %d, applied to the step before,", i))
		if i%4 == 0 {
			s.remove(last.ID)
		}
		last = next
	}
}

// applied returns the state with the diff from one snapshot to another carried out.
func (s *suite) applied(state []byte, from, to store.ID) []byte {
	s.Helper()
	want := s.read(to)
	out := make([]byte, len(want))
	copy(out, state)
	for _, e := range s.diff(from, to) {
		copy(out[e.Offset:], want[e.Offset:e.Offset+e.Length])
		if e.Zero && len(bytes.Trim(want[e.Offset:e.Offset+e.Length], "\x00")) > 0 {
			s.Errorf("extent %+v of a diff is not zero", e)
		}
	}
	return out
}

// TestDiffExtentsBase: Extents with a base agrees with Diff.
func (s *suite) TestDiffExtentsBase() {
	img := s.create("img", 8*blk)
	s.fill(img.ID, 0, 4*blk, 'a')
	snap := s.snapshot(img.ID, "snap")
	s.fill(img.ID, 2*blk, blk, 'b')
	s.discard(img.ID, 0, blk)
	d := s.open(img.ID)
	changed := ""
	next := int64(0)
	s.must(d.Extents(0, 8*blk, snap.ID, func(e store.Extent) bool {
		if e.Offset != next {
			s.Errorf("extent %+v does not continue at %d", e, next)
		}
		next = e.Offset + e.Length
		for range e.Length / blk {
			changed += map[bool]string{true: "x", false: "."}[e.Changed]
		}
		return true
	}), "extents")
	if changed != "x.x....." {
		s.Errorf("changed blocks are %q", changed)
	}
}

// TestDiffRefused: a start that is not in the object's own history is refused.
func (s *suite) TestDiffRefused() {
	img, other := s.create("img", 2*blk), s.create("other", 2*blk)
	s1 := s.snapshot(img.ID, "1")
	s.fill(img.ID, 0, blk, 'a')
	s2 := s.snapshot(img.ID, "2")
	foreign := s.snapshot(other.ID, "1")
	never := func(store.Extent) error { s.Errorf("a refused diff lists something"); return nil }
	s.wantErr(s.s.Diff(s.ctx, s2.ID, s1.ID, never), "diff backwards", store.ErrInvalid)
	s.wantErr(s.s.Diff(s.ctx, foreign.ID, img.ID, never), "diff from another image's snapshot", store.ErrInvalid)
	s.wantErr(s.s.Diff(s.ctx, img.ID, img.ID, never), "diff from an image", store.ErrInvalid)
	d := s.open(img.ID)
	for _, base := range []store.ID{foreign.ID, img.ID} {
		err := d.Extents(0, blk, base, func(store.Extent) bool { return true })
		s.wantErr(err, "extents with a foreign base", store.ErrInvalid)
	}
	stop := errors.New("stop")
	if err := s.s.Diff(s.ctx, s1.ID, s2.ID, func(store.Extent) error { return stop }); !errors.Is(err, stop) {
		s.Errorf("a diff that fn ends answers %v", err)
	}
}
