package memstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Modify changes what an image is allowed.
func (s *Store) Modify(ctx context.Context, image store.ID, c store.Change) (store.Info, error) {
	if err := store.ValidateChange(c); err != nil {
		return store.Info{}, fmt.Errorf("modify %q: %w", image, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("modify %q: %w", image, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(image, store.KindImage)
	if err != nil {
		return store.Info{}, fmt.Errorf("modify: %w", err)
	}
	if c.Format != nil {
		if err := o.info.Format.Advance(*c.Format); err != nil {
			return store.Info{}, fmt.Errorf("modify %q: %w", o.info.Name, err)
		}
		o.info.Format = *c.Format
	}
	if c.Policy != nil {
		o.info.Policy = *c.Policy
		for _, snap := range o.fam.snaps { // a policy is the whole image's
			snap.info.Policy = *c.Policy
		}
	}
	if c.Limits != nil {
		o.info.Limits = *c.Limits
	}
	return o.describe(), nil
}

// Note reads the value under key.
func (s *Store) Note(ctx context.Context, key string) (string, error) {
	if err := store.ValidateNoteKey(key); err != nil {
		return "", err
	}
	d, err := s.enter(ctx)
	if err != nil {
		return "", fmt.Errorf("note %q: %w", key, err)
	}
	defer d.mu.Unlock()
	value, ok := d.notes[key]
	if !ok {
		return "", fmt.Errorf("note %q: %w", key, store.ErrNotFound)
	}
	return value, nil
}

// SwapNote sets the value under key if it is old now.
func (s *Store) SwapNote(ctx context.Context, key, old, value string) error {
	if err := store.ValidateNote(key, old, value); err != nil {
		return err
	}
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("note %q: %w", key, err)
	}
	defer d.mu.Unlock()
	if d.notes[key] != old {
		return fmt.Errorf("note %q has changed: %w", key, store.ErrConflict)
	}
	if value == "" {
		delete(d.notes, key)
	} else {
		d.notes[key] = value
	}
	return nil
}

// Notes calls fn for the notes below prefix. fn may use the store.
func (s *Store) Notes(ctx context.Context, prefix string, fn func(key, value string) error) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("notes below %q: %w", prefix, err)
	}
	all := maps.Clone(d.notes)
	d.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("notes below %q: %w", prefix, err)
		}
		if err := fn(key, all[key]); err != nil {
			return err
		}
	}
	return nil
}
