package layered

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
	"github.com/strata-csi/strata/pkg/store/layered/rangelock"
)

// image is an image or snapshot in use: one view shared by all its devices, and,
// for an image, the head that takes its writes.
type image struct {
	st   *Store
	id   store.ID
	kind store.Kind
	view *view

	refs    int // guarded by st.mu: devices and structural operations
	devices int // guarded by st.mu: devices alone

	// gate is held shared by every write, exclusively while the head or the size
	// changes: a structural operation sees no write half done.
	gate  sync.RWMutex
	head  *layerRef // guarded by gate; nil for a snapshot
	locks rangelock.Locks

	writes atomic.Uint64 // changes begun
	seen   atomic.Uint64 // what writes was when idleness was last looked at

	// fenced: it was the private head of a publication that is no more.
	fenced atomic.Bool

	// poison is why the image is read-only, as the catalogue has it. The head's header
	// may not know it: what failed may have been that sync.
	poison atomic.Pointer[string]

	mu   sync.Mutex
	info store.Info // guarded by mu; as of the last structural change
}

// use returns the shared object of an image or snapshot, opening it if needed.
// Callers hold the id's key lock, so one opener runs at a time.
func (st *Store) use(id store.ID) (*image, error) {
	st.mu.Lock()
	if im := st.images[id]; im != nil {
		im.refs++
		st.mu.Unlock()
		return im, nil
	}
	st.mu.Unlock()
	im, err := st.load(id)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	im.refs = 1
	st.images[id] = im
	st.pool.SetMax(poolSize(len(st.images)))
	st.mu.Unlock()
	return im, nil
}

// load opens the view of an image or snapshot.
func (st *Store) load(id store.ID) (*image, error) {
	if err := st.fenceLate(id); err != nil {
		return nil, err
	}
	im := &image{st: st, id: id}
	var info store.Info
	err := st.cat.View(func(tx *meta.Tx) (err error) {
		if info, err = st.infoOf(tx, id); err != nil || info.Kind != store.KindImage {
			return err
		}
		row, err := tx.Image(id)
		if err == nil && row.Poison != "" {
			im.poison.Store(&row.Poison)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	im.kind, im.info = info.Kind, info
	im.view, err = newView(st, string(info.Kind)+" "+info.Ref(), im.walk)
	if err != nil {
		return nil, err
	}
	if info.Kind == store.KindImage {
		im.head = st.layers.acquire(im.view.top())
	}
	return im, nil
}

// walk finds the chain of an image or snapshot in the catalogue.
func (im *image) walk(tx *meta.Tx) ([]chainRow, error) {
	top, err := topLayer(tx, im.id, im.kind)
	if err != nil {
		return nil, err
	}
	return walkChain(tx, top, store.MaxSize)
}

func topLayer(tx *meta.Tx, id store.ID, kind store.Kind) (meta.LayerID, error) {
	if kind == store.KindSnapshot {
		s, err := tx.Snapshot(id)
		return s.Layer, err
	}
	i, err := tx.Image(id)
	if err == nil && i.Removed {
		err = fmt.Errorf("image %s was removed: %w", id, store.ErrNotFound)
	}
	return i.Head, err
}

// done gives an image back; the last user closes it. Callers hold the id's key lock.
func (im *image) done() {
	st := im.st
	st.mu.Lock()
	im.refs--
	last := im.refs == 0
	if last {
		if st.images[im.id] == im {
			delete(st.images, im.id)
		}
		st.pool.SetMax(poolSize(len(st.images)))
	}
	st.mu.Unlock()
	if !last || im.fenced.Load() { // a fenced one has let go already
		return
	}
	im.view.close()
	if im.head != nil {
		st.layers.release(im.head)
	}
}

// switchHead makes a new layer the head. The caller holds the gate exclusively and
// the catalogue has the new head already.
func (im *image) switchHead(id meta.LayerID) {
	old := im.head
	im.head = im.st.layers.acquire(id)
	im.view.push(id)
	im.st.layers.release(old) // the view still refers to it
}

// headLayer returns the open head. The caller holds the gate.
func (im *image) headLayer() (*layer.Layer, error) {
	if im.fenced.Load() {
		return nil, fmt.Errorf("%s: %w", im.view.name, store.ErrFenced)
	}
	if im.head == nil {
		return nil, fmt.Errorf("%s: %w", im.view.name, store.ErrReadOnly)
	}
	if im.st.shut.Load() { // its files are closed, or about to be
		return nil, fmt.Errorf("%s: %w", im.view.name, store.ErrClosed)
	}
	if why := im.poison.Load(); why != nil {
		return nil, fmt.Errorf("%s: %w since: %s", im.view.name, store.ErrReadOnly, *why)
	}
	return im.head.get()
}

// poolSize is how many files may be open at once. An image needs its head's two;
// the rest is a cache for the layers below.
func poolSize(images int) int {
	const base, perImage, most = 48, 8, 16384
	return min(base+perImage*images, most)
}
