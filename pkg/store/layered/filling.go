package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
	"github.com/strata-csi/strata/pkg/vfs"
)

// filling copies into the absent blocks of one sealed layer what its ancestors show.
type filling struct {
	st     *Store
	t      *jobs.Task
	row    meta.Layer
	target *layerRef
	below  *view
	buf    []byte

	done, copied, unsaved int64
	saved                 int64      // offset up to which the target is durable
	pending               []blockRun // copied and not yet recorded
}

func (st *Store) newFilling(t *jobs.Task, row meta.Layer) (*filling, error) {
	f := &filling{st: st, t: t, row: row, target: st.layers.acquire(row.ID), buf: make([]byte, copyUnit), copied: t.Job().Copied}
	var err error
	f.below, err = newView(st, fmt.Sprintf("what layer %d inherits", row.ID), func(tx *meta.Tx) ([]chainRow, error) {
		now, err := tx.Layer(row.ID)
		if err != nil {
			return nil, err
		}
		return walkChain(tx, now.Parent, now.Overlap)
	})
	if err != nil {
		st.layers.release(f.target)
		return nil, err
	}
	return f, nil
}

func (f *filling) close() {
	f.below.close()
	f.st.layers.release(f.target)
}

// fill copies one chunk.
func (f *filling) fill(ctx context.Context, chunk int64) error {
	lay, err := f.target.get()
	if err != nil {
		return err
	}
	var states layer.Chunk
	if _, err := lay.LoadChunk(chunk, &states); err != nil {
		return err
	}
	visible := min(f.row.Overlap-chunk*chunkBytes, chunkBytes) / blockSize
	for b := int64(0); b < visible; {
		if states.Get(int(b)) != layer.Absent {
			b++
			continue
		}
		end := b + 1
		for end < visible && end-b < copyUnit/blockSize && states.Get(int(end)) == layer.Absent {
			end++
		}
		if err := f.fillRun(ctx, lay, chunk*layer.ChunkBlocks+b, end-b); err != nil {
			return err
		}
		b = end
	}
	f.done = min((chunk+1)*chunkBytes, f.row.Overlap)
	f.t.Progress(f.done, f.row.Overlap, f.copied)
	if f.unsaved >= commitUnit {
		return f.commit()
	}
	return ctx.Err()
}

// fillRun copies the data among some absent blocks; what reads zero stays absent.
func (f *filling) fillRun(ctx context.Context, lay *layer.Layer, block, n int64) error {
	v := f.below
	off := block * blockSize
	t := f.st.srcu.Enter()
	exited := false
	exit := func() {
		if !exited {
			exited = true
			f.st.srcu.Exit(t)
		}
	}
	defer exit()
	runs, err := v.resolve(off, min(n*blockSize, max(v.size.Load()-off, 0)), nil)
	if err != nil {
		return err
	}
	var copied int64
	for _, r := range runs {
		if r.lay != nil {
			if err := f.copyRun(lay, r, off); err != nil {
				return err
			}
			copied += r.n
		}
		off += r.n
	}
	exit()
	if copied == 0 {
		return nil
	}
	f.copied += copied
	f.unsaved += copied
	f.st.copied.Add(copied)
	if err := f.t.Pace(ctx, int(copied)); err != nil {
		return err
	}
	return f.st.roomToCopy()
}

// copyRun copies or shares one run. It is recorded by commit, once it is durable: a
// sync that fails must not leave a record of data that the page cache has lost, while
// the ancestors still have it.
func (f *filling) copyRun(lay *layer.Layer, r run, off int64) error {
	if err := f.st.transfer(lay, r.lay, off, r.n, f.buf); err != nil {
		return err
	}
	f.pending = append(f.pending, blockRun{first: off / blockSize, n: r.n / blockSize})
	return nil
}

// record makes copied data durable, then the records that it is there.
func record(lay *layer.Layer, copied []blockRun) error {
	if err := lay.Flush(); err != nil || len(copied) == 0 {
		return err
	}
	for _, r := range copied {
		if err := lay.Mark(r.first, r.n, layer.Data); err != nil {
			return err
		}
	}
	return lay.Flush()
}

// transfer brings a run of data from one layer to another, sharing extents where the
// file system can.
func (st *Store) transfer(to, from *layer.Layer, off, n int64, buf []byte) error {
	if n >= shareUnit && !st.noReflink.Load() {
		err := to.CloneData(from, off, n)
		if !errors.Is(err, vfs.ErrUnsupported) {
			return err
		}
		st.noReflink.Store(true)
	}
	for n > 0 {
		part := min(n, int64(len(buf)))
		if err := from.ReadData(buf[:part], off); err != nil {
			return err
		}
		if err := to.WriteData(buf[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// commit makes what was filled so far durable.
func (f *filling) commit() error {
	lay, err := f.target.get()
	if err != nil {
		return err
	}
	if err := record(lay, f.pending); err != nil {
		return err
	}
	f.pending = f.pending[:0]
	if f.unsaved > 0 { // copied pages would push out what clients read
		_ = lay.DropCache(f.saved, f.done-f.saved) // advice
	}
	f.unsaved, f.saved = 0, f.done
	return nil
}

// cut removes the clone link under a filled layer: one transaction, then the header,
// then the views, and last what nobody needs any more.
func (st *Store) cut(target *layerRef) (am aftermath, err error) {
	lay, err := target.get()
	if err != nil {
		return am, err
	}
	data, _ := lay.Blocks()
	var row meta.Layer
	err = st.cat.Update(func(tx *meta.Tx) (err error) {
		am = aftermath{}
		if row, err = tx.Layer(target.id); err != nil {
			return err
		}
		if row, err = dropIndex(tx, row); err != nil {
			return err
		}
		below := row.Parent
		if _, err := takeIntent(tx, below, row.ID); err != nil {
			return err
		}
		row.Parent, row.Overlap, row.Data = 0, 0, data
		if err := tx.PutLayer(row); err != nil {
			return err
		}
		return st.collect(tx, below, &am)
	})
	if errors.Is(err, store.ErrNotFound) {
		return aftermath{}, nil // removed meanwhile
	}
	if err != nil {
		return aftermath{}, fmt.Errorf("cut the clone link under layer %d: %w", target.id, err)
	}
	st.rewriteHeader(target, row, "")
	st.rebuildViews(row.ID)
	st.rest(row.ID)
	return am, nil
}
