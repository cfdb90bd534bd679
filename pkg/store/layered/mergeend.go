package layered

import (
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// finish dissolves the emptied source in one transaction.
func (m *merge) finish() (am aftermath, err error) {
	st := m.st
	data, _ := m.to.Blocks()
	var kept meta.Layer
	err = st.cat.Update(func(tx *meta.Tx) (err error) {
		am = aftermath{}
		if m.lower, err = tx.Layer(m.lower.ID); err != nil {
			return err
		}
		if m.upper, err = tx.Layer(m.upper.ID); err != nil {
			return err
		}
		m.lower.Merging = 0
		if m.push {
			kept, err = m.finishPush(tx, data, &am)
		} else {
			kept, err = m.finishFill(tx, data, &am)
		}
		if err != nil {
			return err
		}
		return errors.Join(st.collect(tx, kept.ID, &am), st.collect(tx, kept.Parent, &am))
	})
	if err != nil {
		return aftermath{}, fmt.Errorf("merge layer %d with %d: %w", m.lower.ID, m.upper.ID, err)
	}
	if m.push {
		st.rewriteHeader(m.lowRef, kept, "")
	} else {
		st.rewriteHeader(m.upRef, kept, "")
	}
	st.rebuildViews(m.lower.ID, m.upper.ID)
	st.rest(kept.ID)
	return am, nil
}

// finishFill puts the upper on the lower's parent and forgets the lower.
func (m *merge) finishFill(tx *meta.Tx, data int64, am *aftermath) (meta.Layer, error) {
	lower, up := m.lower, m.upper
	up.Parent, up.Overlap, up.Data = lower.Parent, min(up.Overlap, lower.Overlap), data
	if err := tx.PutLayer(lower); err != nil {
		return up, err
	}
	if err := restack(tx, lower, up); err != nil {
		return up, err
	}
	if err := replaceRoot(tx, lower.Image, lower.ID, up); err != nil {
		return up, err
	}
	return up, m.st.forget(tx, lower, am)
}

// restack puts the upper on what the lower stands on. Where a merge of that layer
// with the lower is intended, it is from now on one with the upper.
func restack(tx *meta.Tx, lower, up meta.Layer) error {
	intended, err := takeIntent(tx, lower.Parent, lower.ID)
	if err != nil {
		return err
	}
	if err := tx.PutLayer(up); err != nil || !intended {
		return err
	}
	below, err := tx.Layer(up.Parent)
	if err != nil {
		return err
	}
	below.Merging = up.ID
	return tx.PutLayer(below)
}

// takeIntent takes back the mark of a layer that was to merge with the given child.
// The job that comes for it finds nothing to do, or another child.
func takeIntent(tx *meta.Tx, id, child meta.LayerID) (had bool, err error) {
	if id == 0 {
		return false, nil
	}
	l, err := tx.Layer(id)
	if err != nil || l.Merging != child {
		return false, err
	}
	l.Merging = 0
	return true, tx.PutLayer(l)
}

// finishPush gives the lower everything that names the upper and forgets the upper.
func (m *merge) finishPush(tx *meta.Tx, data int64, am *aftermath) (meta.Layer, error) {
	low, upper := m.lower, m.upper
	from := low.Image
	low.Image, low.Data, low.Sealed = upper.Image, data, true
	if err := tx.PutLayer(low); err != nil {
		return low, err
	}
	kids, err := tx.Children(upper.ID)
	if err != nil {
		return low, err
	}
	for _, id := range kids {
		kid, err := tx.Layer(id)
		if err != nil {
			return low, err
		}
		kid.Parent = low.ID
		if err := tx.PutLayer(kid); err != nil {
			return low, err
		}
	}
	snaps, err := tx.SnapshotsOn(upper.ID)
	if err != nil {
		return low, err
	}
	for _, s := range snaps {
		s.Layer = low.ID
		if err := tx.PutSnapshot(s); err != nil {
			return low, err
		}
	}
	if err := replaceRoot(tx, upper.Image, upper.ID, low); err != nil {
		return low, err
	}
	if err := m.st.forget(tx, upper, am); err != nil {
		return low, err
	}
	if from != low.Image {
		return low, dropTombstone(tx, from)
	}
	return low, nil
}

// replaceRoot makes another layer the image's root if gone was it. Where the other
// belongs to another image, the layer that goes was the image's last.
func replaceRoot(tx *meta.Tx, id store.ID, gone meta.LayerID, by meta.Layer) error {
	img, err := tx.Image(id)
	if err != nil || img.Root != gone || by.Image != id {
		return err
	}
	img.Root = by.ID
	return tx.PutImage(img)
}
