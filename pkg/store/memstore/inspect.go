package memstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Usage accounts one object. It looks at every cell of the store.
func (s *Store) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return store.Usage{}, fmt.Errorf("usage of %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.any(id)
	if err != nil {
		return store.Usage{}, fmt.Errorf("usage: %w", err)
	}
	u := store.Usage{ID: id, Size: o.size}
	others, atHome := d.holders(o)
	reasons := make(map[string]bool)
	for _, c := range o.cells {
		if c.data == nil {
			continue
		}
		if others[c] {
			u.Shared += store.Block
		} else {
			u.Own += store.Block
		}
		if owner := c.part.owner; owner != o.fam && !atHome[c] {
			u.Retained += store.Block
			reasons[fmt.Sprintf("%s: removed, but %s still reads it", owner.name, o.describe().Ref())] = true
		}
	}
	for r := range reasons {
		u.RetainedFor = append(u.RetainedFor, r)
	}
	slices.Sort(u.RetainedFor)
	return u, nil
}

// holders tells which cells another object than o shows, and which cells are shown
// by a live object of the family that stored them.
func (d *disk) holders(o *object) (others, atHome map[*cell]bool) {
	others, atHome = make(map[*cell]bool), make(map[*cell]bool)
	for _, x := range d.objects {
		for _, c := range x.cells {
			if x != o {
				others[c] = true
			}
			if c.part.owner == x.fam {
				atHome[c] = true
			}
		}
	}
	return others, atHome
}

// Diff lists what changed in "to" since "from". fn may use the store.
func (s *Store) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("diff of %q: %w", to, err)
	}
	runs, err := d.diff(from, to)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("diff of %q: %w", to, err)
	}
	for _, e := range runs {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) diff(from, to store.ID) ([]store.Extent, error) {
	o, err := d.find(to, "")
	if err != nil {
		return nil, err
	}
	base, err := d.base(from, o)
	if err != nil {
		return nil, err
	}
	var runs []store.Extent
	o.extents(0, o.size, base, func(e store.Extent) {
		if base != nil && e.Changed || base == nil && e.Depth > 0 {
			runs = append(runs, e)
		}
	})
	return runs, nil
}

// Children lists the images cloned from an image or a snapshot, by name.
func (s *Store) Children(ctx context.Context, id store.ID) ([]store.Info, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("children of %q: %w", id, err)
	}
	defer d.mu.Unlock()
	if _, err := d.find(id, ""); err != nil {
		return nil, fmt.Errorf("children: %w", err)
	}
	var list []store.Info
	for _, info := range d.list() {
		if info.Kind == store.KindImage && (info.Parent == id || info.ParentSnapshot == id) {
			list = append(list, info)
		}
	}
	return list, nil
}

// Check verifies the invariants of the package; deep makes no difference.
func (s *Store) Check(ctx context.Context, _ bool) ([]store.Problem, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	defer d.mu.Unlock()
	var found []store.Problem
	for o := range d.views() {
		id, ref := o.info.ID, o.describe().Ref()
		for _, text := range o.problems() {
			found = append(found, store.Problem{Object: ref, Text: text})
		}
		if d.objects[id] != o && d.heads[id] != o || o.removed {
			found = append(found, store.Problem{Object: ref, Text: "is indexed wrongly"})
		}
	}
	for id, head := range d.heads {
		if p := head.source.pubs[head.info.Node]; p.Target != id {
			found = append(found, store.Problem{Object: string(id), Text: "is the head of no publication"})
		}
	}
	for name, o := range d.images {
		if o.info.Name != name || d.objects[o.info.ID] != o || o.fam.image != o {
			found = append(found, store.Problem{Object: name, Text: "name leads to a wrong image"})
		}
	}
	return found, nil
}

func (o *object) problems() []string {
	var bad []string
	if o.overlap > o.size || (o.overlap > 0) != (o.fam.root.below != nil) {
		bad = append(bad, fmt.Sprintf("overlap %d does not fit size %d", o.overlap, o.size))
	}
	if !o.part.has(o.fam.root) {
		bad = append(bad, "history does not lead to the image's oldest part")
	}
	known := o.part.depths()
	for block, c := range o.cells {
		if block < 0 || block*store.Block >= o.size {
			bad = append(bad, fmt.Sprintf("block %d lies beyond size %d", block, o.size))
		}
		if known[c.part] == 0 {
			bad = append(bad, fmt.Sprintf("block %d comes from outside the history", block))
		}
		if c.data != nil && len(c.data) != store.Block {
			bad = append(bad, fmt.Sprintf("block %d has %d bytes", block, len(c.data)))
		}
	}
	return bad
}

// Status describes the store. Layers counts the parts that live objects read through.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return store.Status{}, fmt.Errorf("status: %w", err)
	}
	defer d.mu.Unlock()
	parts, cells := make(map[*part]bool), make(map[*cell]bool)
	used := int64(0)
	for o := range d.views() {
		for p := o.part; p != nil; p = p.below {
			parts[p] = true
		}
		for _, c := range o.cells {
			if !cells[c] {
				cells[c] = true
				used += int64(len(c.data))
			}
		}
	}
	return store.Status{
		UUID: d.uuid, Backend: "memory", Version: "1",
		Images: len(d.images), Snapshots: len(d.objects) - len(d.images),
		Layers: len(parts), Total: store.MaxSize, Free: store.MaxSize - used, Copied: d.copied,
	}, nil
}
