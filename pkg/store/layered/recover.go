package layered

import (
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// recover finishes what a crash left half done. Each step may be repeated.
func (st *Store) recover() error {
	if err := st.sweep(); err != nil {
		return err
	}
	if err := st.startJobs(); err != nil {
		return err
	}
	err := st.redo()
	if err == nil {
		err = st.fenceLost()
	}
	if err != nil {
		return errors.Join(err, st.jobs.Close())
	}
	return nil
}

// sweep removes files of layers that were made and never bound. They can only be in
// the reserved window, so the cost does not follow the number of layers.
func (st *Store) sweep() error {
	var orphans []meta.LayerID
	var end meta.LayerID
	err := st.cat.View(func(tx *meta.Tx) error {
		from, to, err := tx.Reserved()
		end = to
		for id := from; err == nil && id < to; id++ {
			if _, missing := tx.Layer(id); errors.Is(missing, store.ErrNotFound) {
				orphans = append(orphans, id)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range orphans {
		if err := layer.Remove(st.env, uint64(id)); err != nil {
			return fmt.Errorf("remove the unused files of layer %d: %w", id, err)
		}
	}
	if len(orphans) > 0 {
		if err := st.env.FS.SyncDir(st.env.Dir); err != nil {
			return err
		}
	}
	return st.cat.Update(func(tx *meta.Tx) error { return tx.SetReservedFrom(end) })
}

// redo replays intents. A layer that cannot be opened keeps its intent: its image
// is refused, the others serve.
func (st *Store) redo() error {
	var intents []meta.Intent
	err := st.cat.View(func(tx *meta.Tx) (err error) {
		intents, err = tx.Intents()
		return err
	})
	if err != nil {
		return err
	}
	for _, i := range intents {
		if i.Kind != intentTrim {
			return fmt.Errorf("intent %d of kind %q is not known to this version: %w", i.ID, i.Kind, store.ErrUnsupported)
		}
		if err := st.redoTrim(i); err != nil {
			st.opts.OnEvent(Event{"image " + string(i.Image), "a shrink could not be finished", err})
		}
	}
	return nil
}

func (st *Store) redoTrim(i meta.Intent) error {
	row, err := st.layerRow(i.Layer)
	if errors.Is(err, store.ErrNotFound) {
		return st.cat.Update(func(tx *meta.Tx) error { return tx.DeleteIntent(i.ID) })
	}
	if err != nil {
		return err
	}
	ref := st.layers.acquire(i.Layer)
	defer st.layers.release(ref)
	return st.trim(ref, i, row.Size, i.Size)
}

// fenceLost retires the publications of images that may have lost acknowledged,
// unflushed writes with the page cache: their clients would never send them again.
func (st *Store) fenceLost() error {
	var heads []meta.LayerID
	byHead := map[meta.LayerID]meta.Publication{}
	err := st.cat.View(func(tx *meta.Tx) error {
		pubs, err := tx.Publications("")
		if err != nil {
			return err
		}
		for _, p := range pubs {
			if img, err := tx.Image(p.ID); err == nil && !p.ReadOnly {
				heads = append(heads, img.Head)
				byHead[img.Head] = p
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, head := range heads {
		ref := st.layers.acquire(head)
		_, openErr := ref.get()
		st.layers.release(ref)
		if openErr != nil || !st.isLost(head) {
			continue // a damaged image is refused when it is opened
		}
		p := byHead[head]
		err := st.cat.Update(func(tx *meta.Tx) error { return tx.DeletePublication(p.ID, p.Node) })
		if err != nil {
			return err
		}
		st.opts.OnEvent(Event{"image " + string(p.ID), fmt.Sprintf(
			"unflushed writes may have been lost with the machine; epoch %d of node %q is retired and the volume must be mounted again", p.Epoch, p.Node), nil})
	}
	return nil
}

func (st *Store) isLost(id meta.LayerID) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lost[id]
}

func (st *Store) cacheLost(id meta.LayerID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lost[id] = true
}

func (st *Store) damaged(id meta.LayerID, err error) {
	st.mu.Lock()
	st.faulty[id] = err.Error()
	st.mu.Unlock()
	st.opts.OnEvent(Event{fmt.Sprintf("layer %d", id), "it is damaged; the images and snapshots over it are refused", err})
}

// damageBelow returns the reason if a layer of the chain is known to be damaged.
func (st *Store) damageBelow(tx *meta.Tx, top meta.LayerID) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.faulty) == 0 {
		return ""
	}
	for id := top; id != 0; {
		if reason, bad := st.faulty[id]; bad {
			return reason
		}
		l, err := tx.Layer(id)
		if err != nil {
			return err.Error()
		}
		id = l.Parent
	}
	return ""
}

// noticePoison makes a failed sync known to the catalogue: the image stays
// read-only, also after a restart.
func (st *Store) noticePoison(im *image, err error) {
	if im.kind != store.KindImage || !errors.Is(err, store.ErrReadOnly) {
		return
	}
	reason := err.Error()
	var fresh bool
	saved := st.cat.Update(func(tx *meta.Tx) error {
		img, err := tx.Image(im.id)
		if err != nil || img.Poison != "" {
			return err
		}
		img.Poison, fresh = reason, true
		return tx.PutImage(img)
	})
	if fresh || saved != nil {
		st.opts.OnEvent(Event{im.view.name, "it is read-only from now on: " + reason, saved})
	}
}

// admit refuses new work when space runs low.
func (st *Store) admit(what string) error {
	_, free, err := st.opts.FS.Space(st.opts.LayersDir)
	if err != nil {
		return fmt.Errorf("%s: free space: %w", what, err)
	}
	if free < st.opts.Reserve {
		return fmt.Errorf("%s: %d bytes are free and %d are kept in reserve: %w", what, free, st.opts.Reserve, store.ErrNoSpace)
	}
	return nil
}

// roomToCopy ends background copying before it takes the space clients need.
func (st *Store) roomToCopy() error { return st.admit("copy in the background") }
