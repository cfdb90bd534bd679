package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Remove implements store.Store. It unbinds the name in one transaction; layers
// that nobody needs go in the background.
func (st *Store) Remove(ctx context.Context, id store.ID) error {
	if err := st.alive(); err != nil {
		return err
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := st.unused(id, "remove"); err != nil {
		return err
	}
	var am aftermath
	err = st.cat.Update(func(tx *meta.Tx) error {
		am = aftermath{}
		info, err := st.infoOf(tx, id)
		if err != nil {
			return err
		}
		if info.Node != "" {
			return fmt.Errorf("%s %s is published to node %q: %w", info.Kind, info.Ref(), info.Node, store.ErrInUse)
		}
		if info.Kind == store.KindSnapshot {
			return st.removeSnapshot(tx, id, &am)
		}
		return st.removeImage(tx, id, &am)
	})
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	failpoint.Hit("layered.remove")
	st.settle(am)
	return nil
}

// unused refuses an object that has devices.
func (st *Store) unused(id store.ID, op string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if im := st.images[id]; im != nil && im.refs > 0 {
		return fmt.Errorf("%s: %s is open: %w", op, im.view.name, store.ErrInUse)
	}
	return nil
}

func (st *Store) removeSnapshot(tx *meta.Tx, id store.ID, am *aftermath) error {
	s, err := tx.Snapshot(id)
	if err != nil {
		return err
	}
	if err := tx.DeleteSnapshot(id); err != nil {
		return err
	}
	return st.collect(tx, s.Layer, am)
}

func (st *Store) removeImage(tx *meta.Tx, id store.ID, am *aftermath) error {
	img, err := tx.Image(id)
	if err != nil {
		return err
	}
	head := img.Head
	img.Head, img.Removed = 0, true
	if err := tx.PutImage(img); err != nil {
		return err
	}
	return st.collect(tx, head, am)
}

// removeFiles is the background part: it unlinks the files of a layer without row.
func (st *Store) removeFiles(id meta.LayerID) error {
	st.layers.mu.Lock()
	used := st.layers.refs[id] != nil
	st.layers.mu.Unlock()
	if used {
		return fmt.Errorf("layer %d is still read: %w", id, store.ErrBusy)
	}
	err := st.cat.View(func(tx *meta.Tx) error {
		_, err := tx.Layer(id)
		return err
	})
	if !errors.Is(err, store.ErrNotFound) {
		return errors.Join(fmt.Errorf("layer %d is in the catalogue, its files stay: %w", id, store.ErrCorrupt), err)
	}
	st.mu.Lock()
	delete(st.faulty, id)
	st.mu.Unlock()
	st.layers.gone(id)
	return errors.Join(layer.Remove(st.env, uint64(id)), st.removeIndex(id), st.sums.drop(id))
}

// Revert implements store.Reverter: a new head over the snapshot's layer takes the
// place of the old one.
func (st *Store) Revert(ctx context.Context, image, snapshot store.ID) error {
	if err := st.alive(); err != nil {
		return err
	}
	unlock, err := st.hold(ctx, image)
	if err != nil {
		return err
	}
	defer unlock()
	if err := st.unused(image, "revert"); err != nil {
		return err
	}
	f, err := st.makeLayer(meta.Layer{Image: image})
	if err != nil {
		return fmt.Errorf("revert image %s: %w", image, err)
	}
	var am aftermath
	var row meta.Layer
	err = st.cat.Update(func(tx *meta.Tx) (err error) {
		am = aftermath{}
		row, err = st.revert(tx, image, snapshot, f.id, &am)
		return err
	})
	if err != nil {
		f.drop()
		return fmt.Errorf("revert image %s to snapshot %s: %w", image, snapshot, err)
	}
	failpoint.Hit("layered.revert")
	st.rewriteHeader(f.ref, row, "")
	f.keep()
	st.settle(am)
	return nil
}

func (st *Store) revert(tx *meta.Tx, image, snapshot store.ID, head meta.LayerID, am *aftermath) (meta.Layer, error) {
	img, err := tx.Image(image)
	if err != nil || img.Removed {
		return meta.Layer{}, errors.Join(err, notImage(tx, image))
	}
	s, err := tx.Snapshot(snapshot)
	if err != nil {
		return meta.Layer{}, err
	}
	if s.Image != image {
		return meta.Layer{}, fmt.Errorf("snapshot %q is of image %s: %w", s.Name, s.Image, store.ErrInvalid)
	}
	pubs, err := tx.Publications(image)
	if err != nil {
		return meta.Layer{}, err
	}
	if len(pubs) > 0 {
		return meta.Layer{}, fmt.Errorf("image %q is published to node %q: %w", img.Name, pubs[0].Node, store.ErrInUse)
	}
	below, err := tx.Layer(s.Layer)
	if err != nil {
		return meta.Layer{}, err
	}
	row := meta.Layer{ID: head, Image: image, Parent: below.ID, Overlap: below.Size, Size: below.Size}
	old := img.Head
	img.Head, img.Poison, img.Overlap = head, "", s.Overlap
	if err := errors.Join(tx.PutLayer(row), tx.PutImage(img)); err != nil {
		return row, err
	}
	return row, st.collect(tx, old, am)
}

// rewriteHeader brings a layer's header in line with its row. The headers are what a
// lost catalogue would be rebuilt from; the row is the truth, so a failure is noted
// and made good at the next change.
func (st *Store) rewriteHeader(ref *layerRef, row meta.Layer, poison string) {
	lay, err := ref.get()
	if err == nil {
		err = lay.Rewrite(func(id *layer.Identity) {
			extra := id.Extra
			*id = identity(row, id.Poison)
			id.Extra = extra
			if poison != "" {
				id.Poison = poison
			}
		})
	}
	if err != nil {
		st.opts.OnEvent(Event{fmt.Sprintf("layer %d", row.ID), "its header could not be rewritten", err})
	}
}
