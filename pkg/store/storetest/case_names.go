package storetest

import (
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// badNames are refused for images and for snapshots.
func badNames() map[string]string {
	return map[string]string{
		"empty":            "",
		"too long":         strings.Repeat("n", store.MaxName+1),
		"too long in utf8": strings.Repeat("ü", store.MaxName/2+1),
		"dot":              ".",
		"dot dot":          "..",
		"slash":            "a/b",
		"path up":          "../../etc/passwd",
		"backslash":        `a\b`,
		"at sign":          "a@b",
		"dash first":       "-rf",
		"space first":      " a",
		"space last":       "a ",
		"newline":          "a\nb",
		"nul":              "a\x00b",
		"escape":           "a\x1b[31m",
		"delete":           "a\x7f",
		"zero width":       "a\u200bb",
		"right to left":    "a\u202eb",
		"invalid utf8":     "a\xff",
		"form of an id":    "0b2c4d6e-1f3a-4b5c-8d7e-9fa0b1c2d3e4",
	}
}

// TestNamesRefused: a bad name creates nothing.
func (s *suite) TestNamesRefused() {
	img := s.create("img", blk)
	for why, name := range badNames() {
		_, err := s.s.Create(s.ctx, store.Spec{Name: name, Size: blk})
		s.wantErr(err, "create with a bad name: "+why, store.ErrInvalid)
		_, err = s.s.Snapshot(s.ctx, img.ID, name)
		s.wantErr(err, "snapshot with a bad name: "+why, store.ErrInvalid)
		if name == "a@b" {
			continue // a reference that is well formed
		}
		_, err = s.s.Lookup(s.ctx, name)
		s.wantErr(err, "look up a bad name: "+why, store.ErrInvalid)
	}
	s.wantCount(1, 0)
}

// TestNamesAccepted: names are data; what looks odd but is allowed comes back as is.
func (s *suite) TestNamesAccepted() {
	names := []string{
		"a", "pvc-0b2c4d6e-1f3a-4b5c-8d7e-9fa0b1c2d3e4", strings.Repeat("n", store.MaxName),
		"Käse", "…", "a b", "a.b", "...", "a:b", "a*b?", "%2e%2e", "~", "$HOME", "'\"", "con", "日本",
	}
	for _, name := range names {
		img := s.create(name, blk)
		snap := s.snapshot(img.ID, name)
		if img.Name != name || snap.Name != name || snap.ImageName != name {
			s.Errorf("created %q@%q, got %q@%q", name, name, img.Name, snap.Name)
		}
		got, err := s.s.Lookup(s.ctx, name+"@"+name)
		if err != nil || got.ID != snap.ID {
			s.Errorf("look up %q: %v %v", name+"@"+name, got.ID, err)
		}
	}
	s.create("A", blk) // case matters
	s.wantCount(len(names)+1, len(names))
}

// TestSizesRefused: a bad size creates and changes nothing.
func (s *suite) TestSizesRefused() {
	img := s.create("img", 2*blk)
	table := []struct {
		size int64
		want error
	}{
		{0, store.ErrRange}, {-1, store.ErrRange}, {-blk, store.ErrRange},
		{1, store.ErrInvalid}, {512, store.ErrInvalid}, {blk - 1, store.ErrInvalid}, {blk + 1, store.ErrInvalid},
		{store.MaxSize + blk, store.ErrRange}, {1<<63 - 1, store.ErrRange}, {-1 << 63, store.ErrRange},
	}
	for _, row := range table {
		_, err := s.s.Create(s.ctx, store.Spec{Name: "bad", Size: row.size})
		s.wantErr(err, fmt.Sprintf("create with size %d", row.size), row.want)
		_, err = s.s.Resize(s.ctx, img.ID, row.size)
		s.wantErr(err, fmt.Sprintf("resize to %d", row.size), row.want)
		if row.size == 0 {
			continue // with a parent: the parent's size
		}
		_, err = s.s.Create(s.ctx, store.Spec{Name: "bad", Size: row.size, Parent: img.ID})
		s.wantErr(err, fmt.Sprintf("clone with size %d", row.size), row.want)
	}
	if got := s.stat(img.ID).Size; got != 2*blk {
		s.Errorf("after refused resizes the size is %d", got)
	}
	s.wantCount(1, 0)
}

// TestSizesLargest: the largest image is created, written at its end, and grown to.
func (s *suite) TestSizesLargest() {
	img := s.create("large", store.MaxSize)
	s.with(img.ID, func(d store.Device) {
		_, err := d.WriteAt([]byte("end"), store.MaxSize-3)
		s.must(err, "write the last bytes")
		p := make([]byte, 4)
		_, err = d.ReadAt(p, store.MaxSize-4)
		s.must(err, "read the last bytes")
		if string(p) != "\x00end" {
			s.Errorf("the last bytes are %q", p)
		}
	})
	small := s.create("small", blk)
	s.resize(small.ID, store.MaxSize)
}

// TestSpecRefused: other malformed requests create nothing.
func (s *suite) TestSpecRefused() {
	for why, spec := range map[string]store.Spec{
		"block size 1":        {BlockSize: 1},
		"block size 1024":     {BlockSize: 1024},
		"negative block size": {BlockSize: -512},
		"negative soft":       {Policy: store.Policy{Soft: -1}},
		"negative hard":       {Policy: store.Policy{Hard: -1}},
		"hard below soft":     {Policy: store.Policy{Soft: 5, Hard: 4}},
		"long digest":         {Digest: strings.Repeat("d", 257)},
	} {
		spec.Name, spec.Size = "bad", blk
		_, err := s.s.Create(s.ctx, spec)
		s.wantErr(err, "create with "+why, store.ErrInvalid)
	}
	s.wantCount(0, 0)
}

// TestUnknownIDs: every call that takes an id says that it is unknown.
func (s *suite) TestUnknownIDs() {
	img := s.create("img", blk)
	gone := s.create("gone", blk)
	s.remove(gone.ID)
	for _, id := range []store.ID{store.NewID(), gone.ID} {
		for what, call := range s.callsWith(id, img.ID) {
			s.wantErr(call(), fmt.Sprintf("%s of the unknown id %s", what, id), store.ErrNotFound)
		}
	}
	for _, id := range []store.ID{"no-uuid", "../img", store.ID(strings.Repeat("x", 4096))} {
		for what, call := range s.callsWith(id, img.ID) {
			s.wantErr(call(), fmt.Sprintf("%s of a malformed id", what), store.ErrNotFound, store.ErrInvalid)
		}
	}
	for _, ref := range []string{"nobody", "nobody@nothing", "img@nothing", "gone"} {
		_, err := s.s.Lookup(s.ctx, ref)
		s.wantErr(err, fmt.Sprintf("look up %q", ref), store.ErrNotFound)
	}
	s.wantCount(1, 0)
}

// callsWith lists every call that takes an id, with an unknown one.
func (s *suite) callsWith(id, live store.ID) map[string]func() error {
	never := func(store.Extent) error { return nil }
	return map[string]func() error{
		"stat":     func() error { _, err := s.s.Stat(s.ctx, id); return err },
		"snapshot": func() error { _, err := s.s.Snapshot(s.ctx, id, "snap"); return err },
		"clone": func() error {
			_, err := s.s.Create(s.ctx, store.Spec{Name: "child", Parent: id})
			return err
		},
		"resize":        func() error { _, err := s.s.Resize(s.ctx, id, blk); return err },
		"flatten":       func() error { return s.s.Flatten(s.ctx, id) },
		"start flatten": func() error { _, err := s.s.StartFlatten(s.ctx, id); return err },
		"remove":        func() error { return s.s.Remove(s.ctx, id) },
		"open":          func() error { _, err := s.s.Open(s.ctx, id); return err },
		"revert":        func() error { return s.s.Revert(s.ctx, id, id) },
		"revert to":     func() error { return s.s.Revert(s.ctx, live, id) },
		"usage":         func() error { _, err := s.s.Usage(s.ctx, id); return err },
		"diff":          func() error { return s.s.Diff(s.ctx, "", id, never) },
		"diff from":     func() error { return s.s.Diff(s.ctx, id, live, never) },
		"children":      func() error { _, err := s.s.Children(s.ctx, id); return err },
		"publish":       func() error { _, err := s.s.Publish(s.ctx, id, "node", store.AccessWrite); return err },
	}
}

// wantCount requires that Walk and Status both count that many objects.
func (s *suite) wantCount(images, snapshots int) {
	s.Helper()
	gotImages, gotSnapshots := 0, 0
	s.must(s.s.Walk(s.ctx, func(i store.Info) error {
		if i.Kind == store.KindImage {
			gotImages++
		} else {
			gotSnapshots++
		}
		return nil
	}), "walk")
	if gotImages != images || gotSnapshots != snapshots {
		s.Errorf("walk finds %d images and %d snapshots, want %d and %d", gotImages, gotSnapshots, images, snapshots)
	}
	status, err := s.s.Status(s.ctx)
	s.must(err, "status")
	if status.Images != images || status.Snapshots != snapshots {
		s.Errorf("status counts %d images and %d snapshots, want %d and %d",
			status.Images, status.Snapshots, images, snapshots)
	}
}
