package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

const (
	// copyUnit is the most a background job copies at once, in bytes.
	copyUnit = 1 << 20
	// commitUnit is how much background copying goes between two flushes: what a
	// resumed job may have to copy again after a crash.
	commitUnit = 8 << 20
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

// stall is why a flatten waits for space or a better disk, nil if it does not.
func (st *Store) stall(id store.ID) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch err := st.stalled[id]; {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNoSpace):
		return fmt.Errorf("%w; it goes on when there is space", err)
	default:
		return err
	}
}

// runFlatten is the job of one image.
func (st *Store) runFlatten(ctx context.Context, t *jobs.Task) error {
	id := store.ID(t.Job().Target)
	err := st.flatten(ctx, t, id)
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.stalled, id)
	if errors.Is(err, store.ErrNoSpace) || errors.Is(err, errCopyAgain) {
		st.stalled[id] = err
	}
	return err
}

// StartFlatten implements store.JobRunner.
func (st *Store) StartFlatten(ctx context.Context, id store.ID) (store.Job, error) {
	if err := st.alive(); err != nil {
		return store.Job{}, err
	}
	if err := st.notHead(id); err != nil {
		return store.Job{}, fmt.Errorf("flatten: %w", err)
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
	return true, st.unlessGone(root, st.copyAgain(err))
}

// fillAndCut does the work on a claimed layer. What it returns starts after it let
// go of the ancestors.
func (st *Store) fillAndCut(ctx context.Context, t *jobs.Task, row meta.Layer) (am aftermath, err error) {
	f, err := st.newFilling(t, row)
	if err != nil {
		return am, err
	}
	defer f.close()
	if err := st.restore(f.target); err != nil {
		return am, err
	}
	for chunk := int64(0); ; chunk++ {
		if chunk, err = f.below.nextChunk(chunk); err != nil {
			return am, err
		}
		if chunk*chunkBytes >= row.Overlap {
			break
		}
		if err := f.fill(ctx, chunk); err != nil {
			if ctx.Err() != nil { // paused: keep what is copied
				err = errors.Join(err, f.commit())
			}
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
