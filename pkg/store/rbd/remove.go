//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Remove hides an image or a snapshot at once; a job takes away what nothing needs.
func (s *Store) Remove(ctx context.Context, id store.ID) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("remove %q: %w", id, err)
	}
	defer s.end()
	if err := s.remove(ctx, id); err != nil {
		return fmt.Errorf("remove %q: %w", id, err)
	}
	failpoint.Hit("rbd.remove.done")
	return nil
}

func (s *Store) remove(ctx context.Context, id store.ID) error {
	for _, key := range []string{"image/", "open/"} { // nobody changes or opens it meanwhile
		unlock, err := s.keys.lock(ctx, key+string(id))
		if err != nil {
			return err
		}
		defer unlock()
	}
	return s.exclusive(ctx, func(t *meta.Tx) error {
		obj, err := t.Find(id, "")
		if err != nil {
			return err
		}
		if err := s.idle(t.State, obj); err != nil {
			return err
		}
		if err := take(t, obj.Image.ID); err != nil {
			return err
		}
		if obj.Snap != nil {
			obj.Snap.Phase = meta.Removed
			t.PutSnapshot(*obj.Snap)
		} else {
			obj.Image.Phase = meta.Removed
			t.PutImage(obj.Image)
			s.bulk.cancel(id)
		}
		s.queueCollect(t, obj.Image.ID)
		return nil
	})
}

// runCollect is the job that takes away what nothing needs of an image. It may be
// interrupted anywhere and is idempotent.
func (s *Store) runCollect(ctx context.Context, task *jobs.Task) error {
	id := store.ID(task.Job().Target)
	// Two changes of one image in the cluster wait for each other there for seconds.
	done, err := s.bulk.stop(ctx, &s.keys, id)
	if err != nil {
		return err
	}
	defer done()
	for {
		var g meta.Garbage
		var image meta.Image
		err := s.update(ctx, func(t *meta.Tx) error {
			g, image = t.Garbage(id), t.Images[id]
			if image.Foreign() { // there is nothing of ours in the cluster
				g = meta.Garbage{}
				s.queueCollect(t, t.DropForeign(id))
				return nil
			}
			for _, n := range g.Snapshots {
				if n.Phase != meta.Removed { // an internal one: nobody takes it from now on
					n.Phase = meta.Removed
					t.PutSnapshot(n)
				}
			}
			return nil
		})
		if err != nil || g.Nothing() {
			return err
		}
		if err := s.collect(ctx, image, g); err != nil {
			return classify(fmt.Errorf("collect %s: %w", image.Cluster, err))
		}
		failpoint.Hit("rbd.collect.step")
	}
}

// collect takes garbage away, first in the cluster and then in the catalogue.
func (s *Store) collect(ctx context.Context, image meta.Image, g meta.Garbage) error {
	g, hold, err := s.spare(ctx, image, g)
	if err != nil {
		return err
	}
	if len(g.Snapshots) > 0 {
		if err := s.removeSnapshots(ctx, image, g.Snapshots); err != nil {
			return err
		}
	}
	switch {
	case g.Whole:
		if err := s.purge(image); err != nil {
			return err
		}
	case g.Trash:
		return s.trash(ctx, image)
	}
	failpoint.Hit("rbd.collect.gone")
	return s.update(ctx, func(t *meta.Tx) error {
		hold(t)
		for _, n := range g.Snapshots {
			t.DropSnapshot(n.ID)
		}
		if g.Whole {
			t.DropImage(image.ID)
			if image.Parent != nil {
				s.queueCollect(t, image.Parent.Image)
			}
		}
		return nil
	})
}

func (s *Store) removeSnapshots(ctx context.Context, image meta.Image, list []meta.Snapshot) error {
	h, err := s.holdImage(ctx, image.ID)
	if gone(err) {
		return nil // it was never made
	}
	if err != nil {
		return err
	}
	if err = h.enter(); err == nil {
		err = h.removeSnapshots(list)
		h.leave()
	}
	return errors.Join(err, s.drop(h, false))
}

// removeSnapshots removes those that are there. The library begins a removal by giving
// the snapshot another name in a namespace of its own, its trash; one that was
// interrupted there is found by the name it had.
func (h *handle) removeSnapshots(list []meta.Snapshot) error {
	due := map[string]uint64{}
	for _, n := range list {
		due[n.Cluster] = n.Number
	}
	there, err := h.img.GetSnapshotNames()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	for _, x := range there {
		name, err := snapshotName(h.img, x)
		if number, ok := due[name]; err == nil && ok && (number == 0 || number == x.Id) {
			if err = h.unprotect(x, number); err == nil {
				err = h.img.RemoveSnapByID(x.Id)
			}
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
	}
	return nil
}

// unprotect lifts the protection that a snapshot had when it was adopted.
func (h *handle) unprotect(x librbd.SnapInfo, adopted uint64) error {
	if adopted == 0 {
		return nil
	}
	snap := h.img.GetSnapshot(x.Name)
	protected, err := snap.IsProtected()
	if err != nil || !protected {
		return nil // in the trash there are none
	}
	return snap.Unprotect()
}

// purge deletes an image from the cluster.
func (s *Store) purge(image meta.Image) error {
	name, err := s.clusterName(image)
	if err == nil {
		err = librbd.RemoveImage(s.c.io, name)
	}
	if gone(err) && image.ClusterID != "" {
		err = librbd.TrashRemove(s.c.io, image.ClusterID, true)
	}
	if gone(err) {
		return nil
	}
	return err
}

// trash moves an image that nobody sees to the cluster's trash, out of the way of its
// operators. Its id goes into the catalogue first: it is the only way to it from then on.
func (s *Store) trash(ctx context.Context, image meta.Image) error {
	if image.ClusterID == "" {
		h, err := s.holdImage(ctx, image.ID)
		if err != nil {
			return err
		}
		image.ClusterID, err = h.img.GetId()
		if err = errors.Join(err, s.drop(h, false)); err != nil {
			return err
		}
		if err := s.putImage(ctx, image.ID, func(i *meta.Image) { i.ClusterID = image.ClusterID }); err != nil {
			return err
		}
	}
	failpoint.Hit("rbd.trash.known")
	name, err := s.clusterName(image)
	if err == nil {
		err = librbd.GetImage(s.c.io, name).Trash(0)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("move to the trash: %w", err)
	}
	return s.putImage(ctx, image.ID, func(i *meta.Image) { i.Trashed = true })
}

// putImage changes the row of an image.
func (s *Store) putImage(ctx context.Context, id store.ID, change func(*meta.Image)) error {
	return s.update(ctx, func(t *meta.Tx) error {
		i, ok := t.Images[id]
		if !ok {
			return fmt.Errorf("image %q: %w", id, store.ErrNotFound)
		}
		change(&i)
		t.PutImage(i)
		return nil
	})
}
