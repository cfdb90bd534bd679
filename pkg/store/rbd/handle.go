//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/rangelock"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// handle is an image or a snapshot that is open in the library.
type handle struct {
	obj   meta.Object // as it was when it was opened
	img   *librbd.Image
	watch *librbd.Watch
	size  atomic.Int64 // bytes
	locks rangelock.Locks

	refs, users int // guarded by registry.mu: all, and those that are devices

	// gate is held shared by what uses img, and alone by what ends that.
	gate sync.RWMutex
	dead error // guarded by gate: why img may not be used any more

	looking sync.WaitGroup // calls of changed
}

// registry is all handles of a store.
type registry struct {
	mu   sync.Mutex
	byID map[store.ID]*handle
}

// users counts the devices of an object in this process.
func (r *registry) users(id store.ID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.byID[id]; h != nil {
		return h.users
	}
	return 0
}

func (r *registry) all() []*handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*handle, 0, len(r.byID))
	for _, h := range r.byID {
		list = append(list, h)
	}
	return list
}

// hold opens an object, or shares what is open; find says what it is. For every hold
// there is a drop.
func (s *Store) hold(ctx context.Context, id store.ID, user bool, find func(*meta.State) (meta.Object, error)) (*handle, error) {
	unlock, err := s.keys.lock(ctx, "open/"+string(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	var obj meta.Object
	if err := s.cat.View(ctx, func(st *meta.State) (err error) {
		obj, err = find(st)
		return err
	}); err != nil {
		return nil, err
	}
	defer s.opening.begin(obj.Image.ID)()
	s.handles.mu.Lock()
	h := s.handles.byID[id]
	s.handles.mu.Unlock()
	if h == nil {
		if h, err = s.openHandle(obj); err != nil {
			return nil, fmt.Errorf("open %s: %w", obj.Ref(), classify(err))
		}
	}
	s.handles.mu.Lock()
	defer s.handles.mu.Unlock()
	s.handles.byID[id] = h
	h.refs++
	if user {
		h.users++
	}
	return h, nil
}

// holdImage holds an image whatever its phase.
func (s *Store) holdImage(ctx context.Context, id store.ID) (*handle, error) {
	return s.hold(ctx, id, false, func(st *meta.State) (meta.Object, error) {
		i, ok := st.Images[id]
		if !ok {
			return meta.Object{}, fmt.Errorf("image %q: %w", id, store.ErrNotFound)
		}
		return meta.Object{Image: i}, nil
	})
}

func (s *Store) openHandle(obj meta.Object) (*handle, error) {
	h := &handle{obj: obj}
	h.gate.Lock()
	defer h.gate.Unlock()
	return h, s.fill(h)
}

// fill opens the image of a handle, whose gate is held alone. On an error the handle is
// as it was.
func (s *Store) fill(h *handle) error {
	img, err := s.openImage(h.obj.Image, h.obj.Snap)
	if err != nil {
		return err
	}
	var watch *librbd.Watch
	if h.obj.Snap == nil {
		if value, e := img.GetMetadata(cacheKey); e == nil && value != "false" {
			err = fmt.Errorf("the image sets rbd_cache to %q, which loses answered writes; see rbd config image remove: %w", value, store.ErrInvalid)
		} else {
			watch, err = img.UpdateWatch(func(any) { h.looking.Go(h.changed) }, nil)
		}
	}
	var size uint64
	if err == nil { // after the watch, which tells of what comes later
		size, err = img.GetSize()
	}
	if err != nil {
		if watch != nil {
			_ = watch.Unwatch() // it goes with the image
		}
		_ = img.Close() // it was only looked at
		return err
	}
	h.img, h.watch = img, watch
	h.size.Store(int64(size))
	return nil
}

// changed follows a resize by another gateway. Where the image is just being opened or
// closed, nobody needs it.
func (h *handle) changed() {
	if !h.gate.TryRLock() {
		return
	}
	defer h.gate.RUnlock()
	if h.dead != nil || h.img == nil {
		return
	}
	if size, err := h.img.GetSize(); err == nil {
		h.size.Store(int64(size))
	}
}

// openImage opens what a row stands for: read-only for a snapshot.
func (s *Store) openImage(i meta.Image, snap *meta.Snapshot) (*librbd.Image, error) {
	switch {
	case i.Adopted && snap != nil: // its name may be another's by now
		return librbd.OpenImageByIdReadOnly(s.c.io, i.ClusterID, snap.Cluster)
	case i.Adopted:
		return librbd.OpenImageById(s.c.io, i.ClusterID, librbd.NoSnapshot)
	case snap != nil:
		img, err := librbd.OpenImageReadOnly(s.c.io, i.Cluster, snap.Cluster)
		if gone(err) && i.ClusterID != "" {
			img, err = librbd.OpenImageByIdReadOnly(s.c.io, i.ClusterID, snap.Cluster)
		}
		return img, err
	}
	img, err := librbd.OpenImage(s.c.io, i.Cluster, librbd.NoSnapshot)
	if gone(err) && i.ClusterID != "" {
		img, err = librbd.OpenImageById(s.c.io, i.ClusterID, librbd.NoSnapshot)
	}
	return img, err
}

// drop gives up a hold; the last one closes the handle.
func (s *Store) drop(h *handle, user bool) error {
	unlock, err := s.keys.lock(context.Background(), "open/"+string(h.obj.ID()))
	if err != nil {
		return err
	}
	defer unlock()
	s.handles.mu.Lock()
	h.refs--
	if user {
		h.users--
	}
	done := h.refs == 0
	if done && s.handles.byID[h.obj.ID()] == h {
		delete(s.handles.byID, h.obj.ID())
	}
	s.handles.mu.Unlock()
	if !done {
		return nil
	}
	return h.end(store.ErrClosed)
}

// end waits for what has begun, lets nothing more in, and closes the image.
func (h *handle) end(why error) error {
	defer h.looking.Wait()
	h.gate.Lock()
	defer h.gate.Unlock()
	if h.dead != nil {
		return nil
	}
	h.dead = why
	if h.watch != nil {
		_ = h.watch.Unwatch() // it goes with the image
	}
	if err := h.img.Close(); err != nil {
		return classify(fmt.Errorf("close %s: %w", h.obj.Ref(), err))
	}
	return nil
}

// enter lets its caller use the image until leave.
func (h *handle) enter() error {
	h.gate.RLock()
	if err := h.dead; err != nil {
		h.gate.RUnlock()
		return err
	}
	return nil
}

func (h *handle) leave() { h.gate.RUnlock() }

// fence ends the handle of an object, if it is open; its devices answer ErrFenced.
func (s *Store) fence(id store.ID) error {
	unlock, err := s.keys.lock(context.Background(), "open/"+string(id))
	if err != nil {
		return err
	}
	defer unlock()
	s.handles.mu.Lock()
	h := s.handles.byID[id]
	delete(s.handles.byID, id)
	s.handles.mu.Unlock()
	if h == nil {
		return nil
	}
	return h.end(store.ErrFenced)
}
