package meta

import (
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Garbage is what may go of one image.
type Garbage struct {
	// Snapshots are referenced by nothing.
	Snapshots []Snapshot
	// Whole: with them the image itself may go.
	Whole bool
	// Trash: the image has to stay, but belongs in the trash.
	Trash bool
}

// Nothing tells whether there is none.
func (g Garbage) Nothing() bool { return len(g.Snapshots) == 0 && !g.Whole && !g.Trash }

// Garbage tells what of an image may go from the cluster.
//
// A snapshot stays where it is, out of the cluster's own trash for snapshots, as long as
// an image was cloned from it. So cutting a clone link never takes the parent snapshot
// away with it, and a flatten that dies between its two last steps leaves an image that
// can be opened and flattened again.
func (s *State) Garbage(id store.ID) Garbage {
	image, ok := s.Images[id]
	if !ok || image.Phase == Making || image.Held {
		return Garbage{}
	}
	used := set{}
	for kid := range s.kids[id] {
		used[s.Images[kid].Parent.Snapshot] = true
	}
	read := len(s.kids[id]) > 0
	for _, c := range s.Cuts {
		if c.Link.Image == id {
			used[c.Link.Snapshot], read = true, true
		}
	}
	var g Garbage
	stay, seen := 0, 0
	for _, n := range s.SnapsOf(id) {
		visible := n.Phase == Live && !n.Internal
		if visible {
			seen++
		}
		if visible || n.Phase == Making || used[n.ID] || n.Held {
			stay++
		} else {
			g.Snapshots = append(g.Snapshots, n)
		}
	}
	if image.Phase == Removed {
		g.Whole = stay == 0 && !read
		g.Trash = !g.Whole && seen == 0 && !image.Trashed && !image.Foreign()
	}
	return g
}

// Cut cuts the clone link of an image and of its snapshots. The parent stays until all
// members that are there have seen it; see Seen. Snapshots of a shallow image that show
// something of the parent keep the link, for the image too as long as they are there.
func (t *Tx) Cut(id store.ID) {
	i := t.Images[id]
	if i.Parent == nil {
		return
	}
	if i.Shallow && t.linked(id) {
		i.Overlap = 0
		t.PutImage(i)
		return
	}
	c := Cut{ID: string(store.NewID()), Image: id, Link: *i.Parent}
	for name, m := range t.Members {
		if !m.Clean {
			c.Waiting = append(c.Waiting, name)
		}
	}
	t.put(cutKey(c.ID), c)
	i.Parent, i.Overlap = nil, 0
	t.PutImage(i)
	for _, n := range t.SnapsOf(id) {
		if n.Overlap != 0 {
			n.Overlap = 0
			t.PutSnapshot(n)
		}
	}
}

// linked tells whether a snapshot of an image shows something of its parent.
func (s *State) linked(id store.ID) bool {
	return slices.ContainsFunc(s.SnapsOf(id), func(n Snapshot) bool { return n.Overlap > 0 })
}

// Fixed tells whether the depth of an image cannot be lowered by its flatten: it belongs
// to others, or its snapshots would keep the clone link.
func (s *State) Fixed(id store.ID) bool {
	i := s.Images[id]
	return i.Foreign() || i.Shallow && s.linked(id)
}

// DropForeign forgets an ancestor of others and its snapshots as far as no lineage leads
// through them, and returns its parent if the whole of it went.
func (t *Tx) DropForeign(id store.ID) (parent store.ID) {
	g, image := t.Garbage(id), t.Images[id]
	for _, n := range g.Snapshots {
		t.DropSnapshot(n.ID)
	}
	if !g.Whole {
		return ""
	}
	t.DropImage(id)
	if image.Parent == nil {
		return ""
	}
	return image.Parent.Image
}

// CutsFor lists the cuts that wait for a member.
func (s *State) CutsFor(member string) (list []Cut) {
	for _, c := range s.Cuts {
		if slices.Contains(c.Waiting, member) {
			list = append(list, c)
		}
	}
	return list
}

// Below tells whether an image is the given one or descends from it.
func (s *State) Below(id, ancestor store.ID) bool {
	return slices.ContainsFunc(s.Path(id), func(i Image) bool { return i.ID == ancestor })
}
