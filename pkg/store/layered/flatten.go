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

const (
	// copyUnit is the most a background job copies at once, in bytes.
	copyUnit = 1 << 20
	// commitUnit is how much background copying goes between two flushes: what a
	// resumed job may have to copy again after a power failure.
	commitUnit = 16 << 20
	// shareUnit is the shortest run worth sharing instead of copying.
	shareUnit = 64 << 10
)

// Flatten implements store.Store.
func (st *Store) Flatten(ctx context.Context, id store.ID) error {
	j, err := st.StartFlatten(ctx, id)
	if err != nil || j.State == store.JobDone {
		return err
	}
	err = st.jobs.Watch(ctx, j.ID, func(now store.Job) error {
		if now.State != store.JobQueued || now.Error == "" {
			return nil
		}
		return st.stall(id) // the job waits; its caller need not
	})
	if err != nil {
		return fmt.Errorf("flatten %s: %w", id, err)
	}
	return nil
}

// stall is why a flatten waits for space, nil if it does not.
func (st *Store) stall(id store.ID) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := st.stalled[id]; err != nil {
		return fmt.Errorf("%w; it goes on when there is space", err)
	}
	return nil
}

// runFlatten is the job of one image.
func (st *Store) runFlatten(ctx context.Context, t *jobs.Task) error {
	id := store.ID(t.Job().Target)
	err := st.flatten(ctx, t, id)
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.stalled, id)
	if errors.Is(err, store.ErrNoSpace) {
		st.stalled[id] = err
	}
	return err
}

// StartFlatten implements store.JobRunner.
func (st *Store) StartFlatten(ctx context.Context, id store.ID) (store.Job, error) {
	if err := st.alive(); err != nil {
		return store.Job{}, err
	}
	info, err := st.Stat(ctx, id)
	switch {
	case err != nil:
		return store.Job{}, fmt.Errorf("flatten: %w", err)
	case info.Kind == store.KindSnapshot:
		return store.Job{}, fmt.Errorf("flatten %s: a snapshot is flattened with its image: %w", info.Ref(), store.ErrInvalid)
	case info.State == store.StateFaulty:
		return store.Job{}, fmt.Errorf("flatten: %w", refuseFaulty(info))
	case info.Depth == 0:
		return store.Job{Kind: store.JobFlatten, Target: string(id), State: store.JobDone}, nil
	}
	return st.jobs.Add(jobs.New(store.JobFlatten, string(id), info.Overlap))
}

// flatten fills the image's bottom own layer from its ancestors and cuts the
// link. Every view shows the same bytes before, during and after, so it may end
// anywhere and goes on where it ended: what is filled is not looked at again.
func (st *Store) flatten(ctx context.Context, t *jobs.Task, id store.ID) error {
	for {
		done, err := st.flattenRoot(ctx, t, id)
		if done || err != nil {
			return err
		}
	}
}

// flattenRoot flattens the image's root if that is still its root once it is claimed;
// a merge may have put another layer in its place.
func (st *Store) flattenRoot(ctx context.Context, t *jobs.Task, id store.ID) (done bool, err error) {
	root, err := st.sealedRoot(ctx, id)
	if err != nil || root == 0 {
		return true, err
	}
	if err := st.layers.claim(ctx, root); err != nil {
		return false, err
	}
	defer st.layers.unclaim(root)
	again, err := st.sealedRoot(ctx, id)
	if err != nil || again != root {
		return false, err
	}
	row, err := st.layerRow(root)
	if err != nil {
		return false, st.unlessGone(root, err)
	}
	am, err := st.fillAndCut(ctx, t, row)
	st.settle(am)
	return true, st.unlessGone(root, err)
}

// fillAndCut does the work on a claimed layer. What it returns starts after it let
// go of the ancestors.
func (st *Store) fillAndCut(ctx context.Context, t *jobs.Task, row meta.Layer) (am aftermath, err error) {
	f, err := st.newFilling(t, row)
	if err != nil {
		return am, err
	}
	defer f.close()
	for chunk := int64(0); ; chunk++ {
		if chunk, err = f.below.nextChunk(chunk); err != nil {
			return am, err
		}
		if chunk*chunkBytes >= row.Overlap {
			break
		}
		if err := f.fill(ctx, chunk); err != nil {
			return am, err
		}
	}
	if err := f.commit(); err != nil {
		return am, err
	}
	return st.cut(f.target)
}

// unlessGone turns an error into success if the layer was removed meanwhile: then
// there is nothing left to do.
func (st *Store) unlessGone(id meta.LayerID, err error) error {
	if err == nil {
		return nil
	}
	if _, gone := st.layerRow(id); errors.Is(gone, store.ErrNotFound) {
		return nil
	}
	return err
}

func (st *Store) layerRow(id meta.LayerID) (row meta.Layer, err error) {
	err = st.cat.View(func(tx *meta.Tx) error {
		row, err = tx.Layer(id)
		return err
	})
	return row, err
}

// sealedRoot returns the image's bottom own layer, 0 if the image is flat or gone.
// Where that is the head, the head is sealed first, which nobody notices.
func (st *Store) sealedRoot(ctx context.Context, id store.ID) (meta.LayerID, error) {
	var root meta.Layer
	find := func(tx *meta.Tx) error {
		img, err := tx.Image(id)
		if err != nil {
			return err
		}
		root, err = tx.Layer(img.Root)
		return err
	}
	err := st.cat.View(find)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil || root.Sealed || root.Parent == 0 {
		return rootOf(root), err
	}
	unlock, err := st.lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	im, err := st.use(id)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer im.done()
	if err := im.seal(); err != nil {
		return 0, err
	}
	err = st.cat.View(find)
	return rootOf(root), err
}

func rootOf(l meta.Layer) meta.LayerID {
	if l.Parent == 0 {
		return 0
	}
	return l.ID
}

// seal puts a new head over the present one, even an empty one.
func (im *image) seal() error {
	if err := im.flush(); err != nil {
		return err
	}
	s := &sealing{im: im}
	if err := s.prepare(); err != nil {
		return err
	}
	im.gate.Lock()
	defer im.gate.Unlock()
	err := im.finishTrims()
	var head *layer.Layer
	if err == nil {
		head, err = im.headLayer()
	}
	if err == nil {
		if err = head.Flush(); err != nil {
			err = im.failed("seal", 0, err)
		}
	}
	var am aftermath
	if err == nil {
		s.data, _ = head.Blocks()
		err = im.st.cat.Update(func(tx *meta.Tx) error {
			am = aftermath{}
			_, err := s.apply(tx, &am)
			return err
		})
	}
	if err != nil {
		s.next.drop()
		return err
	}
	im.changeHead(s.next)
	im.st.settle(am)
	return nil
}

// filling copies into the absent blocks of one sealed layer what its ancestors show.
type filling struct {
	st     *Store
	t      *jobs.Task
	row    meta.Layer
	target *layerRef
	below  *view
	buf    []byte

	done, copied, unsaved int64
	saved                 int64 // offset up to which the target is durable
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

// copyRun copies or shares one run and records it like any other allocation.
func (f *filling) copyRun(lay *layer.Layer, r run, off int64) error {
	if err := f.st.transfer(lay, r.lay, off, r.n, f.buf); err != nil {
		return err
	}
	return lay.Mark(off/blockSize, r.n/blockSize, layer.Data)
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
	if err := lay.Flush(); err != nil {
		return err
	}
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
	return am, nil
}
