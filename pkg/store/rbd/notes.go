//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Modify changes what an image is allowed.
func (s *Store) Modify(ctx context.Context, image store.ID, c store.Change) (info store.Info, err error) {
	if err = store.ValidateChange(c); err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("modify %q: %w", image, err)
	}
	defer s.end()
	err = s.update(ctx, func(t *meta.Tx) error {
		obj, err := t.Find(image, store.KindImage)
		if err != nil {
			return err
		}
		i := obj.Image
		if c.Format != nil {
			if err := i.Format.Advance(*c.Format); err != nil {
				return err
			}
			i.Format = *c.Format
		}
		if c.Policy != nil {
			i.Policy = *c.Policy
		}
		if c.Limits != nil {
			i.Limits = *c.Limits
		}
		t.PutImage(i)
		info = t.Info(meta.Object{Image: i})
		return nil
	})
	if err != nil {
		return store.Info{}, fmt.Errorf("modify %q: %w", image, err)
	}
	return info, nil
}

// Note reads the value under key.
func (s *Store) Note(ctx context.Context, key string) (value string, err error) {
	if err := store.ValidateNoteKey(key); err != nil {
		return "", err
	}
	err = s.view(ctx, func(st *meta.State) error {
		v, ok := st.Notes[key]
		if !ok {
			return store.ErrNotFound
		}
		value = v
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("note %q: %w", key, err)
	}
	return value, nil
}

// SwapNote sets the value under key if it is old now.
func (s *Store) SwapNote(ctx context.Context, key, old, value string) error {
	if err := store.ValidateNote(key, old, value); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("note %q: %w", key, err)
	}
	defer s.end()
	err := s.update(ctx, func(t *meta.Tx) error {
		if t.Notes[key] != old {
			return store.ErrConflict
		}
		if old != value {
			t.SetNote(key, value)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note %q: %w", key, err)
	}
	return nil
}

// Notes calls fn for the notes below prefix, as of one instant. fn may use the store.
func (s *Store) Notes(ctx context.Context, prefix string, fn func(key, value string) error) error {
	var all map[string]string
	if err := s.view(ctx, func(st *meta.State) error { all = maps.Clone(st.Notes); return nil }); err != nil {
		return fmt.Errorf("notes below %q: %w", prefix, err)
	}
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
