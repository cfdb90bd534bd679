package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Modify implements store.Modifier. A change that changes nothing costs no sync.
func (st *Store) Modify(ctx context.Context, id store.ID, c store.Change) (store.Info, error) {
	none := store.Info{}
	if err := st.alive(); err != nil {
		return none, err
	}
	if err := store.ValidateChange(c); err != nil {
		return none, fmt.Errorf("modify image %s: %w", id, err)
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return none, err
	}
	defer unlock()
	var info store.Info
	err = st.cat.Update(func(tx *meta.Tx) error {
		img, err := tx.Image(id)
		if err != nil || img.Removed {
			return notImage(tx, id)
		}
		was := img
		if err := apply(&img, c); err != nil {
			return fmt.Errorf("image %q: %w", img.Name, err)
		}
		if img != was {
			if err := tx.PutImage(img); err != nil {
				return err
			}
		}
		info, err = st.imageInfo(tx, img)
		return err
	})
	if err != nil {
		return none, fmt.Errorf("modify: %w", err)
	}
	failpoint.Hit("layered.modify")
	return info, nil
}

// apply changes a row.
func apply(img *meta.Image, c store.Change) error {
	if c.Format != nil {
		if err := img.Format.Advance(*c.Format); err != nil {
			return err
		}
		img.Format = *c.Format
	}
	if c.Policy != nil {
		img.Policy = *c.Policy
	}
	if c.Limits != nil {
		img.Limits = *c.Limits
	}
	return nil
}

// Note implements store.Notebook.
func (st *Store) Note(_ context.Context, key string) (value string, err error) {
	if err := errors.Join(st.alive(), store.ValidateNoteKey(key)); err != nil {
		return "", err
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		found, ok, err := tx.Note(key)
		if err == nil && !ok {
			err = fmt.Errorf("note %q: %w", key, store.ErrNotFound)
		}
		value = found
		return err
	})
	return value, err
}

// SwapNote implements store.Notebook.
func (st *Store) SwapNote(ctx context.Context, key, old, value string) error {
	if err := errors.Join(st.alive(), store.ValidateNote(key, old, value), ctx.Err()); err != nil {
		return err
	}
	err := st.cat.Update(func(tx *meta.Tx) error {
		now, _, err := tx.Note(key)
		switch {
		case err != nil:
			return err
		case now != old:
			return fmt.Errorf("note %q has changed: %w", key, store.ErrConflict)
		case now == value:
			return nil
		}
		return tx.PutNote(key, value)
	})
	if err == nil {
		failpoint.Hit("layered.note")
	}
	return err
}

// Notes implements store.Notebook. fn runs outside of any transaction.
func (st *Store) Notes(ctx context.Context, prefix string, fn func(key, value string) error) error {
	if err := st.alive(); err != nil {
		return err
	}
	var all [][2]string
	err := st.cat.View(func(tx *meta.Tx) error {
		return tx.Notes(prefix, func(key, value string) error {
			all = append(all, [2]string{key, value})
			return ctx.Err()
		})
	})
	for i := 0; err == nil && i < len(all); i++ {
		err = fn(all[i][0], all[i][1])
	}
	return err
}
