package layered

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Extents implements store.Device.
func (d *device) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	if err := d.check(); err != nil {
		return err
	}
	v := d.im.view
	if err := v.inRange("list the extents of", off, length); err != nil {
		return err
	}
	var since *change
	if base != "" {
		var err error
		if since, err = d.im.st.changeSince(base, d.im.id); err != nil {
			return err
		}
		defer since.close()
	}
	return v.extents(off, length, since, fn)
}

// extents reports a range in runs of equal kind.
func (v *view) extents(off, n int64, since *change, fn func(store.Extent) bool) error {
	var last store.Extent
	stopped := false
	emit := func(e store.Extent) bool {
		if last.Length > 0 && same(last, e) {
			last.Length += e.Length
			return true
		}
		if last.Length > 0 && !fn(last) {
			stopped = true
			return false
		}
		last = e
		return true
	}
	for n > 0 {
		chunk := off / chunkBytes
		part := min(n, (chunk+1)*chunkBytes-off)
		if since == nil && off%chunkBytes == 0 {
			next, err := v.nextChunk(chunk)
			if err != nil {
				return err
			}
			if hole := min(next*chunkBytes-off, n); hole > 0 {
				if !emit(store.Extent{Offset: off, Length: hole, Zero: true}) {
					return nil
				}
				off, n = off+hole, n-hole
				continue
			}
		}
		var blocks [layer.ChunkBlocks]store.Extent
		if err := v.describeChunk(chunk, &blocks); err != nil {
			return err
		}
		if since != nil {
			if err := since.mark(chunk, &blocks); err != nil {
				return err
			}
		}
		for end := off + part; off < end; {
			in := off - chunk*chunkBytes
			step := min(blockSize-in%blockSize, end-off)
			e := blocks[in/blockSize]
			e.Offset, e.Length = off, step
			if !emit(e) {
				return nil
			}
			off += step
		}
		n -= part
	}
	if last.Length > 0 && !stopped {
		fn(last)
	}
	return nil
}

func same(a, b store.Extent) bool {
	return a.Data == b.Data && a.Zero == b.Zero && a.Depth == b.Depth && a.Changed == b.Changed
}

// describeChunk tells of each block of a chunk what it shows and from how deep.
func (v *view) describeChunk(chunk int64, blocks *[layer.ChunkBlocks]store.Extent) error {
	t := v.st.srcu.Enter()
	defer v.st.srcu.Exit(t)
	s := v.shardOf(chunk)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := v.lookup(s, chunk)
	if err != nil {
		return err
	}
	depth := map[slot]int{}
	for i, l := range v.chain {
		depth[l.index] = i + 1
	}
	for i := range blocks {
		at := e.at(i)
		blocks[i] = store.Extent{Data: at != 0 && at&slotZero == 0, Zero: at == 0 || at&slotZero != 0, Depth: depth[at&slotLayer]}
	}
	return nil
}

// change is what lies between a snapshot and a younger state of the same image: a
// view of the layers above the one, up to the other. Whatever it shows has changed.
type change struct {
	view *view
	// In this range the older state was cut off by a shrink: it reads zero in the
	// younger one unless a layer above says otherwise. It is found anew with the layers,
	// while others read it.
	gone atomic.Pointer[gap]
}

// gap is a range of bytes.
type gap struct{ from, to int64 }

func (st *Store) changeSince(from, to store.ID) (*change, error) {
	c := &change{}
	var err error
	c.view, err = newView(st, fmt.Sprintf("changes of %s since %s", to, from), func(tx *meta.Tx) ([]chainRow, error) {
		return c.walk(tx, st, from, to)
	})
	return c, err
}

// walk lists the layers above the snapshot's, and notes what a shrink cut off.
func (c *change) walk(tx *meta.Tx, st *Store, from, to store.ID) ([]chainRow, error) {
	s, err := tx.Snapshot(from)
	if errors.Is(err, store.ErrNotFound) {
		if _, known := tx.Image(from); known == nil {
			err = fmt.Errorf("base %s is an image, not a snapshot: %w", from, store.ErrInvalid)
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := st.infoOf(tx, to)
	if err != nil {
		return nil, err
	}
	top, err := topLayer(tx, to, info.Kind)
	if err != nil {
		return nil, err
	}
	rows, err := walkChain(tx, top, store.MaxSize)
	if err != nil {
		return nil, err
	}
	for i, row := range rows {
		if row.id != s.Layer {
			continue
		}
		base, err := tx.Layer(row.id)
		c.gone.Store(&gap{row.limit, max(row.limit, min(base.Size, info.Size))})
		return rows[:i], err
	}
	return nil, fmt.Errorf("snapshot %q is not in the history of %s: %w", s.Name, info.Ref(), store.ErrInvalid)
}

func (c *change) close() { c.view.close() }

// mark sets Changed where the layers in between say anything.
func (c *change) mark(chunk int64, blocks *[layer.ChunkBlocks]store.Extent) error {
	var changed [layer.ChunkBlocks]store.Extent
	if err := c.view.describeChunk(chunk, &changed); err != nil {
		return err
	}
	first, gone := chunk*chunkBytes, c.gone.Load()
	for i := range blocks {
		off := first + int64(i)*blockSize
		blocks[i].Changed = changed[i].Depth > 0 || off >= gone.from && off < gone.to
	}
	return nil
}

// Diff implements store.Inspector.
func (st *Store) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	dev, err := st.Open(ctx, to)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	var fnErr error
	size := dev.Info().Size
	err = dev.Extents(0, size, from, func(e store.Extent) bool {
		if from != "" && !e.Changed || from == "" && e.Depth == 0 {
			return true
		}
		if fnErr = ctx.Err(); fnErr == nil {
			fnErr = fn(e)
		}
		return fnErr == nil
	})
	return errors.Join(err, fnErr, dev.Close())
}
