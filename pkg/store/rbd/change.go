//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Resize changes an image's size. Growing is one change of the image's header; what a
// shrink cuts off is deleted first, so an interrupted one is carried on.
func (s *Store) Resize(ctx context.Context, image store.ID, size int64) (store.Info, error) {
	err := store.ValidateSize(size)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	defer s.end()
	unlock, err := s.keys.lock(ctx, "image/"+string(image))
	if err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	defer unlock()
	intent := meta.Intent{ID: string(store.NewID()), Op: meta.OpShrink, Owner: s.o.Member, Object: image, Size: size}
	defer s.working(intent.ID)()
	if err := s.exclusive(ctx, func(t *meta.Tx) error { return reserveResize(t, intent) }); err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	failpoint.Hit("rbd.resize.reserved")
	if err := s.shrink(ctx, intent); err != nil {
		return store.Info{}, fmt.Errorf("resize %q: %w", image, err)
	}
	failpoint.Hit("rbd.resize.done")
	var info store.Info
	err = s.cat.Peek(func(st *meta.State) error {
		info = st.Info(meta.Object{Image: st.Images[image]})
		return nil
	})
	return info, err
}

func reserveResize(t *meta.Tx, intent meta.Intent) error {
	obj, err := t.Find(intent.Object, store.KindImage)
	if err != nil {
		return err
	}
	if objects := intent.Size >> obj.Image.Order; objects > mostObjects {
		return fmt.Errorf("%d objects of %d KiB, an object map holds %d; make the image with its size, then its objects are larger: %w",
			objects, 1<<obj.Image.Order>>10, mostObjects, store.ErrRange)
	}
	if err := take(t, intent.Object); err != nil {
		return err
	}
	t.PutIntent(intent)
	return nil
}

// shrink carries out the intent of a resize, to whichever side. One that failed to grow
// is given up; what has begun to be cut off is tried again by the follower.
func (s *Store) shrink(ctx context.Context, intent meta.Intent) error {
	h, err := s.holdImage(ctx, intent.Object)
	if err != nil {
		return err
	}
	before := h.size.Load()
	if err = h.enter(); err == nil {
		h.size.Store(min(before, intent.Size)) // what is cut off is refused before it goes
		if err = h.img.Resize(uint64(intent.Size)); err == nil {
			h.size.Store(intent.Size)
		}
		h.leave()
	}
	if err = errors.Join(err, s.drop(h, false)); err != nil {
		if intent.Size >= before {
			err = errors.Join(err, s.dropIntent(intent))
		}
		return classify(err)
	}
	failpoint.Hit("rbd.resize.made")
	return s.commit(ctx, intent, func(t *meta.Tx, i meta.Image) {
		i.Size, i.Overlap = intent.Size, min(i.Overlap, intent.Size)
		t.PutImage(i)
	})
}

// commit ends an intent on an image; what it did has happened, so the context's end does
// not stop it.
func (s *Store) commit(ctx context.Context, intent meta.Intent, fn func(*meta.Tx, meta.Image)) error {
	_, err := s.cat.Update(context.WithoutCancel(ctx), func(t *meta.Tx) error {
		i, ok := t.Images[intent.Object]
		if _, mine := t.Intents[intent.ID]; !mine || !ok {
			return fmt.Errorf("another gateway has taken over: %w", store.ErrFenced)
		}
		fn(t, i)
		t.DropIntent(intent.ID)
		return nil
	})
	return err
}

// dropIntent forgets an intent whose change did not begin.
func (s *Store) dropIntent(i meta.Intent) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoWithin)
	defer cancel()
	_, err := s.cat.Update(ctx, func(t *meta.Tx) error {
		t.DropIntent(i.ID)
		return nil
	})
	return err
}

// Revert makes the image show what one of its snapshots shows. The cluster does that
// object by object; an interrupted one is carried on before anybody sees the image.
func (s *Store) Revert(ctx context.Context, image, snapshot store.ID) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("revert %q: %w", image, err)
	}
	defer s.end()
	if err := s.revert(ctx, image, snapshot); err != nil {
		return fmt.Errorf("revert %q: %w", image, err)
	}
	return nil
}

func (s *Store) revert(ctx context.Context, image, snapshot store.ID) error {
	unlock, err := s.keys.lock(ctx, "image/"+string(image))
	if err != nil {
		return err
	}
	defer unlock()
	// Nobody opens it meanwhile.
	opening, err := s.keys.lock(ctx, "open/"+string(image))
	if err != nil {
		return err
	}
	intent := meta.Intent{ID: string(store.NewID()), Op: meta.OpRevert, Owner: s.o.Member, Object: image, Snapshot: snapshot}
	defer s.working(intent.ID)()
	err = s.exclusive(ctx, func(t *meta.Tx) error {
		obj, err := t.Find(image, store.KindImage)
		if err != nil {
			return err
		}
		to, err := t.Find(snapshot, store.KindSnapshot)
		if err != nil {
			return err
		}
		if to.Image.ID != image {
			return fmt.Errorf("%q is a snapshot of another image: %w", to.Ref(), store.ErrInvalid)
		}
		if err := s.idle(t.State, obj); err != nil {
			return err
		}
		if err := take(t, image); err != nil {
			return err
		}
		t.PutIntent(intent)
		return nil
	})
	opening()
	if err != nil {
		return err
	}
	failpoint.Hit("rbd.revert.reserved")
	return s.rollBack(ctx, intent, false)
}

// idle refuses an object that is published, or that this process has open.
func (s *Store) idle(st *meta.State, obj meta.Object) error {
	if err := st.Published(obj); err != nil {
		return err
	}
	if n := s.handles.users(obj.ID()); n > 0 {
		return fmt.Errorf("%s is open %d times: %w", obj.Ref(), n, store.ErrInUse)
	}
	return nil
}

// rollBack carries out the intent of a revert, again if an earlier attempt was
// interrupted. A flatten must not copy meanwhile: what it believes copied could be rolled
// back.
//
// The library puts the snapshot's object map in place before it rolls objects back, and
// passes over those that neither map has. So a second attempt would leave what the first
// did not reach as it was, unless the map is made true first.
func (s *Store) rollBack(ctx context.Context, intent meta.Intent, again bool) error {
	done, err := s.bulk.stop(ctx, &s.keys, intent.Object)
	if err != nil {
		return err
	}
	defer done()
	var image meta.Image
	var snap meta.Snapshot
	_ = s.cat.Peek(func(st *meta.State) error {
		image, snap = st.Images[intent.Object], st.Snaps[intent.Snapshot]
		return nil
	})
	if again {
		name, err := s.clusterName(image)
		if err == nil {
			err = rebuildObjectMap(s.c.io, name)
		}
		if err != nil && (!image.Adopted || errno(err) != syscall.EINVAL) { // which has perhaps no map
			return classify(err)
		}
	}
	h, err := s.holdImage(ctx, intent.Object)
	if err != nil {
		return err
	}
	if err = h.enter(); err == nil {
		if err = h.img.GetSnapshot(snap.Cluster).Rollback(); err == nil {
			h.size.Store(snap.Size)
		}
		h.leave()
	}
	if err = errors.Join(err, s.drop(h, false)); err != nil {
		return classify(err) // half of it may be done: the intent stays
	}
	failpoint.Hit("rbd.revert.made")
	return s.commit(ctx, intent, func(t *meta.Tx, i meta.Image) {
		i.Size, i.Era = snap.Size, i.Era+1
		if i.Parent != nil {
			// The library leaves the header's overlap as it is, and has the bytes of
			// the parent beyond it copied before a shrink cuts them off.
			i.Overlap = snap.Overlap
		}
		t.PutImage(i)
	})
}
