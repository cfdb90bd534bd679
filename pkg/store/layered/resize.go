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

// intentTrim says that a head was shrunk and may still have blocks beyond its size.
const intentTrim = "trim"

// Resize implements store.Store. A shrink writes down an intent with the new size,
// so that a crash cannot leave cut-off blocks for a later growth to show.
func (st *Store) Resize(ctx context.Context, id store.ID, size int64) (store.Info, error) {
	var info store.Info
	if err := st.alive(); err != nil {
		return info, err
	}
	if err := store.ValidateSize(size); err != nil {
		return info, fmt.Errorf("resize image %s: %w", id, err)
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return info, err
	}
	defer unlock()
	info, err = st.Stat(ctx, id)
	switch {
	case err != nil:
		return info, fmt.Errorf("resize: %w", err)
	case info.Kind == store.KindSnapshot:
		return info, fmt.Errorf("resize snapshot %s: %w", info.Ref(), store.ErrReadOnly)
	case info.Size == size:
		return info, nil
	case size > info.Size:
		if err := st.admit(fmt.Sprintf("grow image %q", info.Name)); err != nil {
			return info, err
		}
	}
	im, err := st.use(id)
	if err != nil {
		return info, fmt.Errorf("resize: %w", err)
	}
	defer im.done()
	im.gate.Lock()
	defer im.gate.Unlock()
	if err := im.resize(size); err != nil {
		return info, fmt.Errorf("resize %s to %d bytes: %w", im.view.name, size, err)
	}
	return st.Stat(ctx, id)
}

// resize changes the head's size. The caller holds the gate exclusively.
func (im *image) resize(size int64) error {
	st, old := im.st, im.view.size.Load()
	if err := im.finishTrims(); err != nil {
		return err
	}
	var intent meta.Intent
	var row meta.Layer
	err := st.cat.Update(func(tx *meta.Tx) (err error) {
		if row, err = tx.Layer(im.head.id); err != nil {
			return err
		}
		row.Size, row.Overlap = size, min(row.Overlap, size)
		img, err := tx.Image(im.id)
		if err != nil {
			return err
		}
		if size < old {
			img.Overlap = min(img.Overlap, size)
			intent, err = tx.PutIntent(meta.Intent{Kind: intentTrim, Layer: row.ID, Image: im.id, Size: old})
		}
		return errors.Join(err, tx.PutLayer(row), tx.PutImage(img))
	})
	if err != nil {
		return err
	}
	failpoint.Hit("layered.resize")
	if err := im.view.rebuild(); err != nil {
		return err
	}
	st.rewriteHeader(im.head, row, "")
	if size > old {
		return nil
	}
	return st.trim(im.head, intent, size, old)
}

// finishTrims does what an earlier shrink could not do, before the head grows or is
// sealed: a later size could show what was cut off. The caller holds the gate
// exclusively.
func (im *image) finishTrims() error {
	var pending []meta.Intent
	err := im.st.cat.View(func(tx *meta.Tx) error {
		all, err := tx.Intents()
		for _, i := range all {
			if i.Kind == intentTrim && i.Layer == im.head.id {
				pending = append(pending, i)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, i := range pending {
		if err := im.st.trim(im.head, i, im.view.size.Load(), i.Size); err != nil {
			return fmt.Errorf("finish an earlier shrink: %w", err)
		}
	}
	return nil
}

// trim forgets the blocks of a head between its size and the end of what it may
// have had, then the intent.
func (st *Store) trim(ref *layerRef, intent meta.Intent, size, end int64) error {
	lay, err := ref.get()
	if err != nil {
		return err
	}
	if err := clearBeyond(lay, size, end); err != nil {
		return err
	}
	if err := lay.Flush(); err != nil {
		return err
	}
	return st.cat.Update(func(tx *meta.Tx) error { return tx.DeleteIntent(intent.ID) })
}

// clearBeyond makes the blocks from size to end absent and gives their space back.
func clearBeyond(lay *layer.Layer, size, end int64) error {
	for chunk := size / chunkBytes; ; chunk++ {
		next, some, err := lay.NextChunk(chunk)
		if err != nil || !some || next*chunkBytes >= end {
			return err
		}
		chunk = next
		from := max(size, chunk*chunkBytes)
		n := (chunk+1)*chunkBytes - from
		if err := lay.Mark(from/blockSize, n/blockSize, layer.Absent); err != nil {
			return err
		}
		if err := lay.Punch(from, n); err != nil {
			return err
		}
	}
}
