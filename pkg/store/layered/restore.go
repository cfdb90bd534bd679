package layered

import (
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// errCopyAgain is of a job whose sync failed. Nothing that was answered depends on it.
var errCopyAgain = errors.New("what is not known to be on the disk is copied again")

// copyAgain lets a job whose copying was stopped by a failed sync of a sealed layer try
// again.
func (st *Store) copyAgain(err error) error {
	if err == nil || !errors.Is(err, store.ErrReadOnly) {
		return err
	}
	st.opts.OnEvent(Event{"background copying", "a sync failed; the job tries again", err})
	return fmt.Errorf("%w (%w: %w)", err, store.ErrBusy, errCopyAgain)
}

// restore makes a sealed layer writable again after a failed sync: it goes back to what
// is known to be on the disk, which is all that any view needs, since what is copied to
// a layer stays where it came from until it is durable. The caller has claimed the layer.
func (st *Store) restore(ref *layerRef) error {
	lay, err := ref.get()
	if err != nil || lay.Poisoned() == "" {
		return err
	}
	why := lay.Poisoned()
	err = st.cat.Update(func(tx *meta.Tx) error {
		row, err := tx.Layer(ref.id)
		if err != nil {
			return err
		}
		if !row.Sealed { // it may have answered writes that are not on the disk
			return fmt.Errorf("layer %d: %s: %w", ref.id, why, store.ErrReadOnly)
		}
		_, err = dropIndex(tx, row) // it may know what is about to be forgotten
		return err
	})
	if err != nil {
		return err
	}
	err = lay.Restore()
	st.rebuildViews(ref.id)
	if isDamage(err) {
		return st.noticeDamage(ref.id, err)
	}
	if err != nil {
		return fmt.Errorf("restore layer %d: %w; it is %w since: %s", ref.id, err, store.ErrReadOnly, why)
	}
	st.opts.OnEvent(Event{Object: fmt.Sprintf("layer %d", ref.id),
		Text: "it is back at what is known to be on the disk; copying goes on. The sync had failed: " + why})
	return nil
}
