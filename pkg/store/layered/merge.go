package layered

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// A merge joins an unreferenced sealed layer, the lower, with its one child, the
// upper, also sealed. The side with less data moves: the lower's blocks fill what
// the upper leaves absent (fill), or the upper's blocks go down over the lower's
// (push) and the lower takes the upper's place. Nobody but the upper sees the
// lower, so both are invisible at every moment.
//
// A batch of chunks is freed in the source once it is durable in the target and no
// reader holds it, so a merge needs one batch of space whatever it moves.
type merge struct {
	st            *Store
	t             *jobs.Task
	lower, upper  meta.Layer
	push          bool
	lowRef, upRef *layerRef
	from, to      *layer.Layer
	buf           []byte
	batch         []int64    // chunks moved and not yet freed
	pending       []blockRun // of the batch: copied into the upper, not yet recorded
	moved         int64      // bytes in the batch
	copied        int64
}

// runMerge is the job of one unreferenced layer.
func (st *Store) runMerge(ctx context.Context, t *jobs.Task) error {
	n, err := strconv.ParseUint(t.Job().Target, 10, 64)
	if err != nil {
		return fmt.Errorf("merge job for %q: %w", t.Job().Target, store.ErrInvalid)
	}
	id := meta.LayerID(n)
	lower, upper, err := st.mergePair(id)
	if err != nil || upper.ID == 0 {
		return err
	}
	if err := st.layers.claim(ctx, lower.ID, upper.ID); err != nil {
		return err
	}
	defer st.layers.unclaim(lower.ID, upper.ID)
	// The pair is read again under the claim: another job may have changed it.
	again, above, err := st.mergePair(id)
	if err != nil || above.ID == 0 {
		return err
	}
	if above.ID != upper.ID {
		return fmt.Errorf("layer %d has another child now: %w", id, store.ErrBusy)
	}
	am, err := st.join(ctx, t, again, above)
	st.settle(am)
	return st.copyAgain(err)
}

// join merges a claimed pair. What it returns starts after it let go of the layers.
func (st *Store) join(ctx context.Context, t *jobs.Task, again, above meta.Layer) (am aftermath, err error) {
	m := &merge{st: st, t: t, lower: again, upper: above, buf: make([]byte, copyUnit), copied: t.Job().Copied}
	m.lowRef, m.upRef = st.layers.acquire(again.ID), st.layers.acquire(above.ID)
	defer func() {
		st.layers.release(m.lowRef)
		st.layers.release(m.upRef)
	}()
	if err := errors.Join(st.restore(m.lowRef), st.restore(m.upRef)); err != nil {
		return am, err
	}
	if err := m.prepare(); err != nil {
		return am, err
	}
	if err := m.move(ctx); err != nil {
		return am, err
	}
	return m.finish()
}

// mergePair reads the layer and its one sealed child; upper.ID is 0 when there is
// nothing to merge (any more), and the mark is taken back.
func (st *Store) mergePair(id meta.LayerID) (lower, upper meta.Layer, err error) {
	var am aftermath
	err = st.cat.Update(func(tx *meta.Tx) error {
		am, upper = aftermath{}, meta.Layer{}
		var err error
		if lower, err = tx.Layer(id); err != nil {
			return err
		}
		// A crash may come between the end of a merge and that of its job's row: then
		// the layer may be a snapshot's by now, and nothing may move through it.
		referenced, err := tx.Referenced(id)
		if err != nil {
			return err
		}
		kids, err := tx.Children(id)
		if err != nil {
			return err
		}
		if len(kids) == 1 && !referenced {
			if upper, err = tx.Layer(kids[0]); err != nil {
				return err
			}
			needed, err := st.stillNeeded(tx, upper)
			if err != nil {
				return err
			}
			if upper.Sealed && needed {
				if lower.Merging == upper.ID {
					return nil
				}
				lower.Merging = upper.ID
				return tx.PutLayer(lower)
			}
		}
		child := upper.ID
		upper = meta.Layer{}
		lower.Merging = 0
		if err := tx.PutLayer(lower); err != nil {
			return err
		}
		if child != 0 {
			return st.collect(tx, child, &am)
		}
		return st.collect(tx, id, &am)
	})
	if errors.Is(err, store.ErrNotFound) {
		return meta.Layer{}, meta.Layer{}, nil
	}
	st.settle(am)
	return lower, upper, err
}

// stillNeeded tells whether anything stands on a layer.
func (st *Store) stillNeeded(tx *meta.Tx, l meta.Layer) (bool, error) {
	referenced, err := tx.Referenced(l.ID)
	if referenced || err != nil {
		return referenced, err
	}
	n, err := tx.ChildCount(l.ID, 1)
	return n > 0, err
}

// prepare decides the direction. A resumed merge goes on the same way, since its
// source has shrunk; both ways would be right, as every chunk is whole on one side.
func (m *merge) prepare() error {
	low, err := m.lowRef.get()
	if err != nil {
		return err
	}
	up, err := m.upRef.get()
	if err != nil {
		return err
	}
	lowData, _ := low.Blocks()
	upData, _ := up.Blocks()
	if lowData <= upData {
		m.from, m.to = low, up
		return m.st.unsettle(m.lower.ID, m.upper.ID, false)
	}
	m.push, m.from, m.to = true, up, low
	if err := m.st.unsettle(m.upper.ID, m.lower.ID, m.lower.Size > m.upper.Overlap); err != nil {
		return err
	}
	return m.beginPush(low)
}

// beginPush makes the lower as large as the upper and shows the upper all of it, so
// that chunks of the upper can go absent one by one. What of the lower the upper
// did not see is cleared first; nobody else sees it.
func (m *merge) beginPush(low *layer.Layer) error {
	if m.lower.Size > m.upper.Overlap {
		if err := clearBeyond(low, m.upper.Overlap, m.lower.Size); err != nil {
			return err
		}
		if err := low.Flush(); err != nil {
			return err
		}
	}
	data, _ := low.Blocks()
	_, zeroes := m.from.Blocks() // may take the place of data
	err := m.st.cat.Update(func(tx *meta.Tx) error {
		lower, err := tx.Layer(m.lower.ID)
		if err != nil {
			return err
		}
		lower.Data = max(data-zeroes, 0)
		upper, err := tx.Layer(m.upper.ID)
		if err != nil {
			return err
		}
		lower.Overlap = min(lower.Overlap, upper.Overlap)
		lower.Size = upper.Size
		upper.Overlap = upper.Size
		m.lower, m.upper = lower, upper
		return errors.Join(tx.PutLayer(lower), tx.PutLayer(upper))
	})
	if err != nil {
		return err
	}
	m.st.rewriteHeader(m.lowRef, m.lower, "")
	m.st.rewriteHeader(m.upRef, m.upper, "")
	m.st.rebuildViews(m.lower.ID)
	return nil
}

// move takes every chunk of the source over.
func (m *merge) move(ctx context.Context) error {
	end := m.upper.Overlap
	if m.push {
		end = m.upper.Size
	}
	for chunk := int64(0); ; chunk++ {
		next, some, err := m.from.NextChunk(chunk)
		if err != nil {
			return err
		}
		if !some || next*chunkBytes >= end {
			return m.free()
		}
		chunk = next
		if err := m.moveChunk(ctx, chunk, end); err != nil {
			return err
		}
		m.t.Progress(min((chunk+1)*chunkBytes, end), end, m.copied)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (m *merge) moveChunk(ctx context.Context, chunk, end int64) error {
	var src, dst layer.Chunk
	some, err := m.from.LoadChunk(chunk, &src)
	if err != nil || !some {
		return err
	}
	if !m.push {
		if _, err := m.to.LoadChunk(chunk, &dst); err != nil {
			return err
		}
	}
	visible := int(min(end-chunk*chunkBytes, chunkBytes) / blockSize)
	for i := 0; i < visible; {
		// In a push the target's own state is overruled; in a fill it comes first.
		s := src.Get(i)
		n := 1
		for i+n < visible && n < copyUnit/int(blockSize) && src.Get(i+n) == s && dst.Get(i+n) == dst.Get(i) {
			n++
		}
		if s != layer.Absent && dst.Get(i) == layer.Absent {
			if err := m.moveRun(ctx, chunk*layer.ChunkBlocks+int64(i), int64(n), s); err != nil {
				return err
			}
		}
		i += n
	}
	m.batch = append(m.batch, chunk)
	if m.moved >= commitUnit || len(m.batch) >= maxBatch {
		return m.free()
	}
	return nil
}

// maxBatch bounds how many chunks wait for one flush.
const maxBatch = 256

func (m *merge) moveRun(ctx context.Context, block, n int64, s layer.State) error {
	if s == layer.Zero {
		if err := m.to.Mark(block, n, layer.Zero); err != nil {
			return err
		}
		return m.to.Punch(block*blockSize, n*blockSize)
	}
	if err := m.st.transfer(m.to, m.from, block*blockSize, n*blockSize, m.buf); err != nil {
		return err
	}
	if !m.push {
		// The lower still shows it; see filling.copyRun.
		m.pending = append(m.pending, blockRun{first: block, n: n})
	} else if err := m.to.Mark(block, n, layer.Data); err != nil {
		return err // until then the upper shows it
	}
	m.moved += n * blockSize
	m.copied += n * blockSize
	m.st.copied.Add(n * blockSize)
	if err := m.t.Pace(ctx, int(n*blockSize)); err != nil {
		return err
	}
	return nil
}

// free gives the batch back in the source. The order matters at each step:
//
//  1. The target is durable.
//  2. Resolvers that saw the target before it was filled are gone; else one could
//     pass the target as absent and then the source as absent.
//  3. The source says absent, durably: a hole under a block that still counts as
//     data in the source would hide the target's data after a power failure.
//  4. No view remembers the source for these chunks, and no reader holds it.
//  5. The space is punched out.
func (m *merge) free() error {
	if len(m.batch) == 0 {
		return nil
	}
	if err := record(m.to, m.pending); err != nil {
		return err
	}
	m.pending = m.pending[:0]
	m.st.srcu.Wait()
	for _, c := range m.batch {
		if err := m.from.Mark(c*layer.ChunkBlocks, layer.ChunkBlocks, layer.Absent); err != nil {
			return err
		}
	}
	if err := m.from.Flush(); err != nil {
		return err
	}
	for _, v := range m.st.viewsWith(m.upper.ID) {
		for _, c := range m.batch {
			v.forget(c, 1)
		}
	}
	m.st.srcu.Wait()
	for _, c := range m.batch {
		if err := m.from.Punch(c*chunkBytes, chunkBytes); err != nil {
			return err
		}
	}
	m.batch, m.moved = m.batch[:0], 0
	return nil
}
