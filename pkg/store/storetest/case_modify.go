package storetest

import (
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

func (s *suite) modify(id store.ID, c store.Change) store.Info {
	s.Helper()
	info, err := s.s.Modify(s.ctx, id, c)
	s.must(err, "modify %s", id)
	return info
}

func (s *suite) format(id store.ID, f store.Format) {
	s.Helper()
	info := s.modify(id, store.Change{Format: &f})
	if info.Format != f || s.stat(id).Format != f {
		s.Errorf("set to %q, the format is %q and %q", f, info.Format, s.stat(id).Format)
	}
}

func (s *suite) wantFormat(id store.ID, want store.Format, what string) {
	s.Helper()
	if got := s.stat(id).Format; got != want {
		s.Errorf("%s: the format is %q, want %q", what, got, want)
	}
}

// TestFormatForward: what is known of the content moves forward only.
func (s *suite) TestFormatForward() {
	order := []store.Format{store.FormatNone, store.FormatBegun, "ext4", store.FormatUnknown}
	for from := range order {
		img := s.create("img", blk)
		s.wantFormat(img.ID, store.FormatNone, "a new image")
		s.format(img.ID, order[from])
		for to, f := range order {
			if to >= from {
				continue
			}
			_, err := s.s.Modify(s.ctx, img.ID, store.Change{Format: &f, Limits: &store.Limits{IOPS: 7}})
			s.wantErr(err, "moving the format backwards", store.ErrConflict)
			if got := s.stat(img.ID); got.Format != order[from] || got.Limits != (store.Limits{}) {
				s.Errorf("a refused change leaves %q and %+v behind", got.Format, got.Limits)
			}
		}
		s.format(img.ID, order[from])
		s.format(img.ID, store.FormatUnknown)
		s.remove(img.ID)
	}
	img := s.create("img", blk)
	s.format(img.ID, "ext4")
	xfs := store.Format("xfs")
	_, err := s.s.Modify(s.ctx, img.ID, store.Change{Format: &xfs})
	s.wantErr(err, "another file system over a known one", store.ErrConflict)
}

// TestFormatInherited: snapshots and clones have the format of their moment, and
// nothing takes it away from the image.
func (s *suite) TestFormatInherited() {
	img := s.create("img", blk)
	bare := s.snapshot(img.ID, "bare")
	s.format(img.ID, store.FormatBegun)
	begun := s.snapshot(img.ID, "begun")
	s.fill(img.ID, 0, blk, 'x')
	s.format(img.ID, "ext4")
	s.must(s.s.Revert(s.ctx, img.ID, bare.ID), "revert")
	want := map[store.ID]store.Format{
		img.ID: "ext4", bare.ID: store.FormatNone, begun.ID: store.FormatBegun,
		s.clone("of-bare", bare.ID).ID: store.FormatNone, s.clone("of-begun", begun.ID).ID: store.FormatBegun,
		s.clone("of-img", img.ID).ID: "ext4",
	}
	for range 2 {
		for id, f := range want {
			s.wantFormat(id, f, s.stat(id).Ref())
		}
		s.reopen()
	}
}

// TestLimits: limits are an image's own, durable, and can be lifted.
func (s *suite) TestLimits() {
	want := store.Limits{IOPS: 500, Bandwidth: 64 * mib}
	img := s.image(store.Spec{Name: "img", Size: blk, Limits: want})
	if img.Limits != want || s.stat(img.ID).Limits != want {
		s.Errorf("made with %+v, the limits are %+v and %+v", want, img.Limits, s.stat(img.ID).Limits)
	}
	snap := s.snapshot(img.ID, "snap")
	for _, o := range []store.Info{snap, s.clone("of-snap", snap.ID), s.clone("of-img", img.ID)} {
		if got := s.stat(o.ID).Limits; got != (store.Limits{}) {
			s.Errorf("%s has limits %+v", o.Ref(), got)
		}
	}
	s.reopen()
	if got := s.stat(img.ID).Limits; got != want {
		s.Errorf("after reopening the limits are %+v, want %+v", got, want)
	}
	if got := s.modify(img.ID, store.Change{Limits: &store.Limits{IOPS: 3}}).Limits; got != (store.Limits{IOPS: 3}) {
		s.Errorf("changed, the limits are %+v", got)
	}
	if got := s.modify(img.ID, store.Change{Limits: &store.Limits{}}).Limits; got != (store.Limits{}) {
		s.Errorf("lifted, the limits are %+v", got)
	}
	if got := s.modify(img.ID, store.Change{}); got.Limits != (store.Limits{}) || got.ID != img.ID {
		s.Errorf("no change answers %+v", got)
	}
}

// TestModifyPolicy: a changed policy holds for the next clone.
func (s *suite) TestModifyPolicy() {
	base := s.create("base", blk)
	want := store.Policy{Soft: 1, Hard: 2}
	if got := s.modify(base.ID, store.Change{Policy: &want}).Policy; got != want {
		s.Errorf("the policy is %+v, want %+v", got, want)
	}
	if got := s.clone("one", base.ID).Policy; got != want {
		s.Errorf("a clone inherits %+v, want %+v", got, want)
	}
	s.reopen()
	if got := s.stat(base.ID).Policy; got != want {
		s.Errorf("after reopening the policy is %+v, want %+v", got, want)
	}
}

// TestModifyRefused: what is malformed or of the wrong kind changes nothing.
func (s *suite) TestModifyRefused() {
	img := s.create("img", blk)
	snap := s.snapshot(img.ID, "snap")
	bad, long, begun := store.Format("ext 4"), store.Format(strings.Repeat("x", 65)), store.FormatBegun
	changes := map[string]store.Change{
		"negative IOPS":      {Limits: &store.Limits{IOPS: -1}, Format: &begun},
		"negative bandwidth": {Limits: &store.Limits{Bandwidth: -1}},
		"soft above hard":    {Policy: &store.Policy{Soft: 3, Hard: 2}},
		"a strange format":   {Format: &bad},
		"a long format":      {Format: &long},
	}
	for what, c := range changes {
		_, err := s.s.Modify(s.ctx, img.ID, c)
		s.wantErr(err, what, store.ErrInvalid)
	}
	if got := s.stat(img.ID); got.Limits != img.Limits || got.Policy != img.Policy || got.Format != "" {
		s.Errorf("after refused changes the image is %+v", got)
	}
	_, err := s.s.Modify(s.ctx, snap.ID, store.Change{Format: &begun})
	s.wantErr(err, "modify of a snapshot", store.ErrInvalid)
	_, err = s.s.Modify(s.ctx, store.NewID(), store.Change{Format: &begun})
	s.wantErr(err, "modify of nothing", store.ErrNotFound)
	_, err = s.s.Create(s.ctx, store.Spec{Name: "other", Size: blk, Limits: store.Limits{IOPS: -1}})
	s.wantErr(err, "create with negative limits", store.ErrInvalid)
	_, err = s.s.Lookup(s.ctx, "other")
	s.wantErr(err, "look up what was refused", store.ErrNotFound)
}

// TestCreateFlatten: a clone asked to be flat becomes flat, whatever its depth.
func (s *suite) TestCreateFlatten() {
	base := s.create("base", 4*blk)
	want := s.fill(base.ID, blk, 2*blk, 'b')
	want = append(append(make([]byte, blk), want...), make([]byte, blk)...)
	flat := s.image(store.Spec{Name: "flat", Parent: s.snapshot(base.ID, "s").ID, Flatten: true})
	s.image(store.Spec{Name: "empty", Size: blk, Flatten: true})
	s.settle()
	if got := s.stat(flat.ID); got.Depth != 0 || got.Parent != "" || got.State != store.StateReady {
		s.Errorf("the clone that was to be flat is %+v", got)
	}
	s.wantBytes(flat.ID, want, "the flat clone")
	low := store.Policy{Soft: 1, Hard: 1}
	one := s.image(store.Spec{Name: "one", Parent: base.ID, Policy: low})
	_, err := s.s.Create(s.ctx, store.Spec{Name: "two", Parent: one.ID, Flatten: true})
	s.wantErr(err, "a clone to be flat above the hard limit", store.ErrBusy)
}
