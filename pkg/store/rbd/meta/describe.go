package meta

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Object is an image or a snapshot with its image.
type Object struct {
	Image Image
	// Snap is nil for an image.
	Snap *Snapshot
}

// ID is the object's own id.
func (o Object) ID() store.ID {
	if o.Snap != nil {
		return o.Snap.ID
	}
	return o.Image.ID
}

// Kind tells which it is.
func (o Object) Kind() store.Kind {
	if o.Snap != nil {
		return store.KindSnapshot
	}
	return store.KindImage
}

// Size is in bytes.
func (o Object) Size() int64 {
	if o.Snap != nil {
		return o.Snap.Size
	}
	return o.Image.Size
}

// Format is what is known of the content.
func (o Object) Format() store.Format {
	if o.Snap != nil {
		return o.Snap.Format
	}
	return o.Image.Format
}

// Ref is the name a user types for it.
func (o Object) Ref() string {
	if o.Snap != nil {
		return o.Image.Name + "@" + o.Snap.Name
	}
	return o.Image.Name
}

// Any returns a live object or private head.
func (s *State) Any(id store.ID) (Object, error) {
	if i, ok := s.Images[id]; ok && i.Phase == Live {
		return Object{Image: i}, nil
	}
	if n, ok := s.Snaps[id]; ok && n.Phase == Live && !n.Internal {
		return Object{Image: s.Images[n.Image], Snap: &n}, nil
	}
	return Object{}, fmt.Errorf("object %q: %w", id, store.ErrNotFound)
}

// Find returns a live object; with kind set, one of another kind is refused, as is a
// private head always.
func (s *State) Find(id store.ID, kind store.Kind) (Object, error) {
	o, err := s.Any(id)
	switch {
	case err != nil && kind != "":
		return o, fmt.Errorf("%s %q: %w", kind, id, store.ErrNotFound)
	case err != nil:
		return o, err
	case o.Image.Head():
		return o, fmt.Errorf("%q belongs to the publication of %q: %w", id, o.Image.Name, store.ErrInUse)
	case kind != "" && o.Kind() != kind:
		return o, fmt.Errorf("%s %q is no %s: %w", o.Kind(), id, kind, store.ErrInvalid)
	}
	return o, nil
}

// Lookup resolves "image" or "image@snapshot". A snapshot whose image was removed is
// found by the image's old name as long as no other image has it.
func (s *State) Lookup(image, snapshot string) (Object, error) {
	i, ok := s.Named(image)
	if ok && i.Phase == Making {
		i, ok = Image{}, false
	}
	if snapshot == "" {
		if !ok {
			return Object{}, store.ErrNotFound
		}
		return Object{Image: i}, nil
	}
	var found *Snapshot
	for _, n := range s.Snaps {
		home := s.Images[n.Image]
		if n.Internal || n.Phase != Live || n.Name != snapshot || ok && n.Image != i.ID || !ok && home.Name != image {
			continue
		}
		if found == nil || n.Created.After(found.Created) {
			found = &n
		}
	}
	if found == nil {
		return Object{}, store.ErrNotFound
	}
	return Object{Image: s.Images[found.Image], Snap: found}, nil
}

// Depth counts the clone links from an image to the root.
func (s *State) Depth(id store.ID) int {
	links := 0
	for i := s.Images[id]; i.Parent != nil; i = s.Images[i.Parent.Image] {
		links++
	}
	return links
}

// Path lists an image and its ancestors up to the root, removed ones included.
func (s *State) Path(id store.ID) []Image {
	path := []Image{s.Images[id]}
	for i := path[0]; i.Parent != nil; {
		i = s.Images[i.Parent.Image]
		path = append(path, i)
	}
	return path
}

// Info describes an object.
func (s *State) Info(o Object) store.Info {
	i := o.Image
	info := store.Info{
		ID: i.ID, Kind: store.KindImage, Name: i.Name, Image: i.ID, ImageName: i.Name, ImageRemoved: i.Phase == Removed,
		Depth: s.Depth(i.ID), Size: i.Size, Overlap: i.Overlap, BlockSize: i.BlockSize, State: store.StateReady,
		Policy: i.Policy, Created: i.Created, Digest: i.Digest, Limits: i.Limits, Format: i.Format, Node: i.Node,
	}
	if p := i.Parent; p != nil {
		info.Parent, info.ParentName = p.Image, s.Images[p.Image].Name
		if p.Name != "" {
			info.ParentName += "@" + p.Name
			if n, ok := s.Snaps[p.Snapshot]; ok && n.Phase == Live {
				info.ParentSnapshot = p.Snapshot
			}
		}
	}
	if n := o.Snap; n != nil {
		info.ID, info.Kind, info.Name, info.Created = n.ID, store.KindSnapshot, n.Name, n.Created
		info.Size, info.Overlap, info.Format = n.Size, n.Overlap, n.Format
		info.Limits, info.Digest = store.Limits{}, ""
	} else {
		info.Snapshots = len(s.named(i.ID))
		if s.Flattening(i.ID) {
			info.State = store.StateFlattening
		}
	}
	if pubs := s.PubsOf(info.ID); len(pubs) > 0 {
		info.Node = pubs[0].Node
	}
	return info
}

// Flattening tells whether a flatten of an image is to be done.
func (s *State) Flattening(id store.ID) bool {
	for _, j := range s.Jobs {
		if j.Kind == store.JobFlatten && j.Target == string(id) && j.State != store.JobFailed {
			return true
		}
	}
	return false
}

// named lists the snapshots of an image that users see.
func (s *State) named(id store.ID) (list []Snapshot) {
	for _, n := range s.SnapsOf(id) {
		if !n.Internal && n.Phase == Live {
			list = append(list, n)
		}
	}
	return list
}

// List describes all live objects, an image before its snapshots, in the order of names.
func (s *State) List() []store.Info {
	var list []store.Info
	for _, i := range s.Images {
		if i.Phase == Live && !i.Head() {
			list = append(list, s.Info(Object{Image: i}))
		}
	}
	for _, n := range s.Snaps {
		if n.Phase == Live && !n.Internal {
			list = append(list, s.Info(Object{Image: s.Images[n.Image], Snap: &n}))
		}
	}
	slices.SortFunc(list, func(a, b store.Info) int {
		return cmp.Or(strings.Compare(a.ImageName, b.ImageName), strings.Compare(string(a.Image), string(b.Image)),
			strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return list
}

// Published refuses an object that is published.
func (s *State) Published(o Object) error {
	if pubs := s.PubsOf(o.ID()); len(pubs) > 0 {
		return fmt.Errorf("%s is published to node %q: %w", o.Ref(), pubs[0].Node, store.ErrInUse)
	}
	return nil
}

// Taken returns the intent of another change of an image that is under way, if any.
func (s *State) Taken(image store.ID) (Intent, bool) {
	for _, i := range s.Intents {
		if i.Object == image {
			return i, true
		}
	}
	return Intent{}, false
}
