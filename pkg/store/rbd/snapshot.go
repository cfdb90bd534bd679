//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Snapshot freezes the image as it is now. The library holds back new writes and waits
// for those under way.
func (s *Store) Snapshot(ctx context.Context, image store.ID, name string) (store.Info, error) {
	err := store.ValidateName(store.KindSnapshot, name)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot of %q: %w", image, err)
	}
	defer s.end()
	unlock, err := s.keys.lock(ctx, "image/"+string(image))
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot of %q: %w", image, err)
	}
	defer unlock()
	snap, err := s.snapshot(ctx, image, name)
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot %q of %q: %w", name, image, err)
	}
	var info store.Info
	err = s.cat.Peek(func(st *meta.State) error {
		info = st.Info(meta.Object{Image: st.Images[image], Snap: &snap})
		return nil
	})
	return info, err
}

// snapshot makes a snapshot, an internal one without a name. The image's lock is held.
func (s *Store) snapshot(ctx context.Context, image store.ID, name string) (meta.Snapshot, error) {
	snap := meta.Snapshot{ID: store.NewID(), Image: image, Name: name, Internal: name == "", Phase: meta.Making}
	snap.Cluster = string(snap.ID)
	intent := meta.Intent{ID: string(store.NewID()), Op: meta.OpSnapshot, Owner: s.o.Member, Object: image, Snapshot: snap.ID}
	defer s.working(intent.ID)()
	err := s.exclusive(ctx, func(t *meta.Tx) error {
		obj, err := t.Find(image, store.KindImage)
		if err != nil {
			return err
		}
		for _, n := range t.SnapsOf(image) {
			if name != "" && n.Name == name && n.Phase != meta.Removed {
				return store.ErrConflict
			}
		}
		if err := take(t, image); err != nil {
			return err
		}
		i := obj.Image
		i.Seq++
		snap.Seq, snap.Era, snap.Size, snap.Overlap, snap.Format, snap.Created = i.Seq, i.Era, i.Size, i.Overlap, i.Format, time.Now().UTC()
		t.PutImage(i)
		t.PutSnapshot(snap)
		t.PutIntent(intent)
		return nil
	})
	if err != nil {
		return snap, err
	}
	failpoint.Hit("rbd.snapshot.reserved")
	if err := s.makeSnapshot(ctx, snap); err != nil {
		return snap, errors.Join(err, s.takeBack(intent))
	}
	failpoint.Hit("rbd.snapshot.made")
	err = s.update(ctx, func(t *meta.Tx) error {
		n, ok := t.Snaps[snap.ID]
		if _, mine := t.Intents[intent.ID]; !mine || !ok {
			return fmt.Errorf("another gateway has taken over: %w", store.ErrFenced)
		}
		n.Phase, n.Overlap = meta.Live, min(n.Overlap, t.Images[image].Overlap) // a flatten may have come in between
		t.PutSnapshot(n)
		t.DropIntent(intent.ID)
		snap = n
		return nil
	})
	if err != nil {
		return snap, errors.Join(err, s.takeBack(intent))
	}
	failpoint.Hit("rbd.snapshot.done")
	return snap, nil
}

func (s *Store) makeSnapshot(ctx context.Context, snap meta.Snapshot) error {
	h, err := s.holdImage(ctx, snap.Image)
	if err != nil {
		return err
	}
	if err = h.enter(); err == nil {
		_, err = h.img.CreateSnapshot(snap.Cluster)
		h.leave()
	}
	return classify(errors.Join(err, s.drop(h, false)))
}

// freeze returns an internal snapshot that shows the image as it is now: the last one,
// if nothing was written since.
func (s *Store) freeze(ctx context.Context, image store.ID) (meta.Snapshot, error) {
	unlock, err := s.keys.lock(ctx, "image/"+string(image))
	if err != nil {
		return meta.Snapshot{}, err
	}
	defer unlock()
	if snap, ok, err := s.unchanged(ctx, image); err != nil || ok {
		return snap, err
	}
	return s.snapshot(ctx, image, "")
}

// unchanged finds the image's newest snapshot, if it is an internal one and the image
// still shows the same.
func (s *Store) unchanged(ctx context.Context, image store.ID) (snap meta.Snapshot, ok bool, err error) {
	var i meta.Image
	if err := s.cat.View(ctx, func(st *meta.State) error {
		if i = st.Images[image]; i.Phase != meta.Live {
			return fmt.Errorf("image %q: %w", image, store.ErrNotFound)
		}
		if all := st.SnapsOf(image); len(all) > 0 {
			snap = all[len(all)-1]
		}
		return nil
	}); err != nil {
		return snap, false, err
	}
	if !snap.Internal || snap.Phase != meta.Live || snap.Size != i.Size || snap.Overlap != i.Overlap || snap.Era != i.Era || snap.Format != i.Format {
		return snap, false, nil
	}
	h, err := s.holdImage(ctx, image)
	if err != nil {
		return snap, false, err
	}
	same := false
	if err = h.enter(); err == nil {
		var spans []span
		spans, err = h.spans(snap.Cluster, 0, snap.Size, false)
		same = len(spans) == 0
		h.leave()
	}
	return snap, same && err == nil, classify(errors.Join(err, s.drop(h, false)))
}

// unfreeze lets go of a snapshot that was made for a clone that was not.
func (s *Store) unfreeze(c *creation) error {
	if c.via == nil || !c.via.Internal {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoWithin)
	defer cancel()
	return s.update(ctx, func(t *meta.Tx) error {
		s.queueCollect(t, c.via.Image)
		return nil
	})
}
