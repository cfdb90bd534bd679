package layered

import (
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// isDamage tells errors that will not go away by trying again.
func isDamage(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnsupported)
}

// asDamage says of files that are gone that the layer is damaged: to a caller,
// not found would mean that the image does not exist.
func asDamage(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("both its files are missing (%v): %w", err, store.ErrCorrupt)
	}
	return err
}

// damaged remembers a layer that cannot be used. A layer that the catalogue does not
// have (any more) is nobody's loss.
func (st *Store) damaged(id meta.LayerID, err error) {
	if _, gone := st.layerRow(id); errors.Is(gone, store.ErrNotFound) {
		return
	}
	st.mu.Lock()
	_, known := st.faulty[id]
	st.faulty[id] = err.Error()
	st.mu.Unlock()
	if !known {
		st.opts.OnEvent(Event{fmt.Sprintf("layer %d", id), "it is damaged; the images and snapshots over it are refused", err})
	}
}

// noticeDamage remembers the layer if err says that it is damaged, and returns err.
func (st *Store) noticeDamage(id meta.LayerID, err error) error {
	if err != nil && isDamage(err) {
		st.damaged(id, err)
	}
	return err
}

// stillDamaged looks again at a layer that was found damaged and has been opened now:
// somebody may have brought its files back.
func (st *Store) stillDamaged(id meta.LayerID, lay *layer.Layer) error {
	st.mu.Lock()
	_, known := st.faulty[id]
	st.mu.Unlock()
	if !known {
		return nil
	}
	if found := lay.Verify(false); len(found) > 0 {
		return found[0]
	}
	st.mu.Lock()
	delete(st.faulty, id)
	st.mu.Unlock()
	return nil
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

// refuseFaulty is the error of work on an object that cannot be read.
func refuseFaulty(i store.Info) error {
	if i.State != store.StateFaulty {
		return nil
	}
	return fmt.Errorf("%s %s: %s: %w", i.Kind, i.Ref(), i.Reason, store.ErrCorrupt)
}

// refused lists the images and snapshots over damaged layers, and the damaged layers
// that only removed objects stood on.
func (st *Store) refused() (list []store.Problem, err error) {
	st.mu.Lock()
	left := make(map[meta.LayerID]string, len(st.faulty))
	for id, reason := range st.faulty {
		left[id] = reason
	}
	st.mu.Unlock()
	if len(left) == 0 {
		return nil, nil
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		list = nil
		return tx.WalkImages(func(img meta.Image) error { return st.refusedOf(tx, img, &list, left) })
	})
	for id, reason := range left {
		list = append(list, store.Problem{Object: fmt.Sprintf("layer %d", id), Text: reason})
	}
	slices.SortFunc(list, func(a, b store.Problem) int {
		if a.Object < b.Object {
			return -1
		}
		return 1
	})
	return list, err
}

// refusedOf adds an image and its snapshots, and takes the reasons they name from left.
func (st *Store) refusedOf(tx *meta.Tx, img meta.Image, list *[]store.Problem, left map[meta.LayerID]string) error {
	add := func(i store.Info, err error) error {
		if err != nil || i.State != store.StateFaulty {
			return err
		}
		*list = append(*list, store.Problem{Object: i.Ref(), Text: i.Reason})
		for id, reason := range left {
			if reason == i.Reason {
				delete(left, id)
			}
		}
		return nil
	}
	if !img.Removed && !img.Scratch {
		if err := add(st.imageInfo(tx, img)); err != nil {
			return err
		}
	}
	snaps, err := tx.SnapshotsOf(img.ID)
	for _, s := range snaps {
		err = errors.Join(err, add(st.snapshotInfo(tx, s)))
	}
	return err
}
