package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	defaultSoft = 8
	defaultHard = 64
	maxDigest   = 256
)

// Create makes an image, or a clone of Spec.Parent.
func (s *Store) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	if err := validate(spec); err != nil {
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
	}
	defer d.mu.Unlock()
	if o := d.images[spec.Name]; o != nil {
		if spec.Digest != "" && spec.Digest == o.info.Digest {
			return o.describe(), nil
		}
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, store.ErrConflict)
	}
	o, err := d.create(spec)
	if err != nil {
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
	}
	d.images[spec.Name] = o
	d.objects[o.info.ID] = o
	if spec.Flatten {
		d.finish(o.fam, d.flatten(o.fam))
	}
	if limit := effective(o.info.Policy); o.part.depth() > limit.Soft {
		d.shorten(o.part, limit.Soft/2)
	}
	return o.describe(), nil
}

func validate(spec store.Spec) error {
	if err := store.ValidateName(store.KindImage, spec.Name); err != nil {
		return err
	}
	if spec.Size != 0 || spec.Parent == "" {
		if err := store.ValidateSize(spec.Size); err != nil {
			return err
		}
	}
	if spec.BlockSize != 0 {
		if err := store.ValidateBlockSize(spec.BlockSize); err != nil {
			return err
		}
	}
	if len(spec.Digest) > maxDigest {
		return fmt.Errorf("digest of %d bytes, at most %d are allowed: %w", len(spec.Digest), maxDigest, store.ErrInvalid)
	}
	if err := store.ValidateLimits(spec.Limits); err != nil {
		return err
	}
	return store.ValidatePolicy(spec.Policy)
}

// create builds the image without making it visible.
func (d *disk) create(spec store.Spec) (*object, error) {
	fam := &family{id: store.NewID(), name: spec.Name, snaps: make(map[string]*object)}
	o := &object{fam: fam, pubs: make(map[string]store.Publication), info: store.Info{
		ID: fam.id, Kind: store.KindImage, Name: spec.Name, BlockSize: spec.BlockSize,
		Policy: spec.Policy, Limits: spec.Limits, Digest: spec.Digest, Created: time.Now(),
	}}
	if spec.Parent == "" {
		o.view = view{cells: make(map[int64]*cell), size: spec.Size, part: &part{owner: fam}}
	} else if err := d.link(o, spec); err != nil {
		return nil, err
	}
	if o.info.BlockSize == 0 {
		o.info.BlockSize = store.Block
	}
	fam.image, fam.root = o, o.part
	return o, nil
}

// link makes o a clone of the parent that spec names.
func (d *disk) link(o *object, spec store.Spec) error {
	parent, err := d.find(spec.Parent, "")
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	if spec.Size != 0 && spec.Size < parent.size {
		return fmt.Errorf("size %d is smaller than the parent's %d: %w", spec.Size, parent.size, store.ErrRange)
	}
	o.info.Policy, o.info.Format = inherit(spec.Policy, parent.info.Policy), parent.info.Format
	if o.info.BlockSize == 0 {
		o.info.BlockSize = parent.info.BlockSize
	}
	limit := effective(o.info.Policy)
	if depth := parent.part.depth() + 1; depth > limit.Hard {
		d.shorten(parent.part, max(0, limit.Soft/2-1))
		return fmt.Errorf("clone depth %d is above the hard limit %d: %w", depth, limit.Hard, store.ErrBusy)
	}
	o.descend(parent)
	o.size = max(spec.Size, parent.size)
	return nil
}

// descend makes o show what parent shows, frozen as it is now if that is an image.
func (o *object) descend(parent *object) {
	below := parent.part
	if parent.info.Kind == store.KindImage {
		below = parent.seal()
	} else {
		o.fam.via = parent
	}
	o.view = parent.fork(o.fam)
	o.part.below = below
	o.overlap = parent.size
}

func inherit(p, parent store.Policy) store.Policy {
	if p.Soft == 0 {
		p.Soft = parent.Soft
	}
	if p.Hard == 0 {
		p.Hard = parent.Hard
	}
	return p
}

// effective replaces zero fields by the defaults; hard is never below soft.
func effective(p store.Policy) store.Policy {
	if p.Soft == 0 {
		p.Soft = defaultSoft
	}
	if p.Hard == 0 {
		p.Hard = defaultHard
	}
	p.Hard = max(p.Hard, p.Soft)
	return p
}

// shorten flattens the image on the path from p that brings p to that many clone
// links or less for the fewest bytes; of equals, the one nearest the root.
func (d *disk) shorten(p *part, most int) {
	var best *family
	var cost int64
	for links, f := range p.path() {
		if links > most || f.root.below == nil {
			break
		}
		if bytes := d.inherited(f); best == nil || bytes <= cost {
			best, cost = f, bytes
		}
	}
	if best != nil {
		d.finish(best, d.flatten(best))
	}
}

// inherited is the bytes a flatten of f would make own.
func (d *disk) inherited(f *family) int64 {
	above := f.root.below.depths()
	seen := make(map[*cell]bool)
	var bytes int64
	for o := range d.views() {
		if !o.part.has(f.root) {
			continue
		}
		for _, c := range o.cells {
			if above[c.part] > 0 && !seen[c] {
				seen[c] = true
				bytes += int64(len(c.data))
			}
		}
	}
	return bytes
}

// Snapshot freezes the image as it is now.
func (s *Store) Snapshot(ctx context.Context, image store.ID, name string) (store.Info, error) {
	if err := store.ValidateName(store.KindSnapshot, name); err != nil {
		return store.Info{}, fmt.Errorf("snapshot of %q: %w", image, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot of %q: %w", image, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(image, store.KindImage)
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot: %w", err)
	}
	if o.fam.snaps[name] != nil {
		return store.Info{}, fmt.Errorf("snapshot %s@%s: %w", o.fam.name, name, store.ErrConflict)
	}
	snap := &object{fam: o.fam, pubs: make(map[string]store.Publication), info: store.Info{
		ID: store.NewID(), Kind: store.KindSnapshot, Name: name, BlockSize: o.info.BlockSize,
		Policy: o.info.Policy, Format: o.info.Format, Created: time.Now(),
	}}
	below := o.seal()
	snap.view = o.fork(o.fam)
	snap.part = below
	o.fam.snaps[name] = snap
	d.objects[snap.info.ID] = snap
	return snap.describe(), nil
}
