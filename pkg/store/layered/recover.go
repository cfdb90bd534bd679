package layered

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// recover finishes what a crash left half done. Each step may be repeated.
func (st *Store) recover() error {
	if err := st.probe(); err != nil {
		return err
	}
	if err := st.sweep(); err != nil {
		return err
	}
	// Before anything writes to a layer: the first write takes the traces away by
	// which a lost page cache is known.
	if err := st.fenceLost(); err != nil {
		return err
	}
	// Before jobs may seal a head that still has blocks beyond its size.
	if err := st.redo(); err != nil {
		return err
	}
	if err := st.loadScrub(); err != nil {
		return err
	}
	return st.startJobs()
}

// probeFile is made and removed at start-up.
const probeFile = ".probe"

// probe refuses a directory that layers cannot be written to. A full one is fine.
func (st *Store) probe() error {
	name := path.Join(st.env.Dir, probeFile)
	f, err := st.opts.FS.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), st.opts.FS.Remove(name))
	}
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("layers cannot be written: %w", err)
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
		if len(st.owed[i.Image]) > 0 {
			continue // done when the image is used: it must not be written to before that is paid
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

// noticePoison makes a failed sync known to the catalogue: the image stays
// read-only, also after a restart.
func (st *Store) noticePoison(im *image, err error) {
	if im.kind != store.KindImage || !errors.Is(err, store.ErrReadOnly) {
		return
	}
	reason := err.Error()
	im.poison.CompareAndSwap(nil, &reason)
	st.poison(im.view.name, reason, func(tx *meta.Tx) (meta.Image, error) { return tx.Image(im.id) })
}

// poisonHead is noticePoison for a layer that was found poisoned, or whose last sync
// failed when it was closed, if it is a head: unflushed writes to it are in doubt. A
// sealed layer was durable before it was sealed.
func (st *Store) poisonHead(id meta.LayerID, reason string) {
	st.poison(fmt.Sprintf("layer %d", id), reason, func(tx *meta.Tx) (meta.Image, error) {
		row, err := tx.Layer(id)
		if err != nil {
			return meta.Image{}, err
		}
		img, err := tx.Image(row.Image)
		if err == nil && img.Head != id {
			err = fmt.Errorf("layer %d is no head: %w", id, store.ErrNotFound)
		}
		return img, err
	})
}

// poison marks the image that find returns.
func (st *Store) poison(name, reason string, find func(*meta.Tx) (meta.Image, error)) {
	var fresh bool
	saved := st.cat.Update(func(tx *meta.Tx) error {
		fresh = false
		img, err := find(tx)
		if err != nil || img.Poison != "" {
			return err
		}
		img.Poison, fresh = reason, true
		return tx.PutImage(img)
	})
	if errors.Is(saved, store.ErrNotFound) {
		return
	}
	if fresh || saved != nil {
		st.opts.OnEvent(Event{name, "it is read-only from now on: " + reason, saved})
	}
}

// admit refuses new work when space runs low.
func (st *Store) admit(what string) error { return st.keep(what, st.opts.Reserve) }

// admitSnapshot refuses snapshots later than other work: they cost little, and with one
// an image can be copied to where there is room.
func (st *Store) admitSnapshot(what string) error { return st.keep(what, st.opts.Reserve/2) }

// keep refuses what would be done with less than reserve bytes free.
func (st *Store) keep(what string, reserve int64) error {
	_, free, err := st.opts.FS.Space(st.opts.LayersDir)
	if err != nil {
		return fmt.Errorf("%s: free space: %w", what, err)
	}
	if free < reserve {
		return fmt.Errorf("%s: %d bytes are free and %d are kept in reserve: %w", what, free, reserve, store.ErrNoSpace)
	}
	return nil
}

// roomToCopy ends background copying before it takes the space clients need.
func (st *Store) roomToCopy() error { return st.admit("copy in the background") }
