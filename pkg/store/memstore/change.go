package memstore

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Resize changes an image's size.
func (s *Store) Resize(ctx context.Context, image store.ID, size int64) (store.Info, error) {
	if err := store.ValidateSize(size); err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(image, store.KindImage)
	if err != nil {
		return store.Info{}, fmt.Errorf("resize: %w", err)
	}
	o.resize(size)
	return o.describe(), nil
}

// Flatten cuts the image's clone link.
func (s *Store) Flatten(ctx context.Context, image store.ID) error {
	_, err := s.StartFlatten(ctx, image)
	return err
}

// Remove deletes an image or a snapshot.
func (s *Store) Remove(ctx context.Context, id store.ID) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("remove %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(id, "")
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if err := o.idle(); err != nil {
		return fmt.Errorf("remove %q: %w", o.describe().Ref(), err)
	}
	o.removed = true
	delete(d.objects, id)
	if o.info.Kind == store.KindSnapshot {
		delete(o.fam.snaps, o.info.Name)
		return nil
	}
	delete(d.images, o.info.Name)
	o.fam.image = nil
	return nil
}

// idle refuses an object that is open or published.
func (o *object) idle() error {
	if len(o.pubs) > 0 { // the same one each time
		return fmt.Errorf("published to node %q: %w", slices.Min(slices.Collect(maps.Keys(o.pubs))), store.ErrInUse)
	}
	if o.opened > 0 {
		return fmt.Errorf("open %d times: %w", o.opened, store.ErrInUse)
	}
	return nil
}

// Revert makes the image show what one of its snapshots shows.
func (s *Store) Revert(ctx context.Context, image, snapshot store.ID) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("revert %q: %w", image, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(image, store.KindImage)
	if err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	snap, err := d.find(snapshot, store.KindSnapshot)
	if err != nil {
		return fmt.Errorf("revert %q: %w", o.info.Name, err)
	}
	if snap.fam != o.fam {
		return fmt.Errorf("revert %q: %q is a snapshot of another image: %w",
			o.info.Name, snap.describe().Ref(), store.ErrInvalid)
	}
	if err := o.idle(); err != nil {
		return fmt.Errorf("revert %q: %w", o.info.Name, err)
	}
	o.view = snap.fork(o.fam)
	return nil
}
