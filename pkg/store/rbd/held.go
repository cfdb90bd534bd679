//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// needs is what others still need of an image that was adopted: they go on cloning it, or
// have cloned it before, as ceph-csi does for each of its snapshots.
type needs struct {
	cloned  map[uint64]bool // snapshots that have clones of others
	unknown bool            // there are snapshots that have no row
}

// needs asks the cluster. The image may lie in the trash.
func (s *Store) needs(ctx context.Context, image meta.Image) (needs, error) {
	found := needs{cloned: map[uint64]bool{}}
	ours := map[string]bool{} // ids, and names for those that have their own
	rows := map[string]uint64{}
	if err := s.cat.View(ctx, func(st *meta.State) error {
		for _, i := range st.Images {
			if !i.Foreign() {
				ours[i.Cluster], ours[i.ClusterID] = !i.Adopted, i.ClusterID != ""
			}
		}
		for _, n := range st.SnapsOf(image.ID) {
			rows[n.Cluster] = n.Number
		}
		return nil
	}); err != nil {
		return found, err
	}
	return found, readOnly(s.c.io, image.ClusterID, func(img *librbd.Image) error {
		all, err := img.GetSnapshotNames()
		if err != nil {
			return err
		}
		for _, x := range all {
			name, err := snapshotName(img, x)
			if err != nil {
				return err
			}
			if number, ok := rows[name]; !ok || number != 0 && number != x.Id {
				found.unknown = true
				continue
			}
			if err := img.SetSnapByID(x.Id); err != nil {
				return fmt.Errorf("snapshot %s: %w", name, err)
			}
			kids, err := img.ListChildrenAttributes()
			if err != nil {
				return fmt.Errorf("clones of snapshot %s: %w", name, err)
			}
			for _, k := range kids {
				mine := k.PoolName+"/"+k.PoolNamespace == s.o.own() && (ours[k.ImageID] || ours[k.ImageName])
				found.cloned[x.Id] = found.cloned[x.Id] || !mine
			}
		}
		return nil
	})
}

// snapshotName is the name that a snapshot was given, also when the library has begun to
// remove it, by giving it another one.
func snapshotName(img *librbd.Image, x librbd.SnapInfo) (string, error) {
	kind, err := img.GetSnapNamespaceType(x.Id)
	if err != nil || kind != librbd.SnapNamespaceTypeTrash {
		return x.Name, err
	}
	return img.GetSnapTrashNamespace(x.Id)
}

// spare takes out of the garbage of an adopted image what others need; hold writes that
// down, in the transaction that ends the collection.
func (s *Store) spare(ctx context.Context, image meta.Image, g meta.Garbage) (rest meta.Garbage, hold func(*meta.Tx), err error) {
	hold = func(*meta.Tx) {}
	if !image.Adopted {
		return g, hold, nil
	}
	need, err := s.needs(ctx, image)
	if gone(err) {
		return g, hold, nil // the image itself
	}
	if err != nil {
		return g, hold, err
	}
	rest = meta.Garbage{Whole: g.Whole, Trash: g.Trash}
	var held []store.ID
	for _, n := range g.Snapshots {
		if n.Number != 0 && need.cloned[n.Number] {
			held = append(held, n.ID)
		} else {
			rest.Snapshots = append(rest.Snapshots, n)
		}
	}
	keep := g.Whole && need.unknown
	if keep || len(held) > 0 {
		rest.Whole, rest.Trash = false, rest.Trash || keep && !image.Trashed
	}
	return rest, func(t *meta.Tx) {
		for _, id := range held {
			n := t.Snaps[id]
			n.Held = true
			t.PutSnapshot(n)
		}
		if i, ok := t.Images[image.ID]; ok && keep && i.Trashed {
			i.Held = true
			t.PutImage(i)
		}
	}, nil
}

// letGo finds out whether what was held for others is needed no more, and has it
// collected.
func (s *Store) letGo(ctx context.Context) error {
	due := map[store.ID]meta.Image{}
	_ = s.cat.Peek(func(st *meta.State) error {
		for id, i := range st.Images {
			if i.Held {
				due[id] = i
			}
		}
		for _, n := range st.Snaps {
			if n.Held {
				due[n.Image] = st.Images[n.Image]
			}
		}
		return nil
	})
	var all error
	for id, image := range due {
		need, err := s.needs(ctx, image)
		if err != nil && !gone(err) {
			all = errors.Join(all, fmt.Errorf("look who needs %s: %w", image.Cluster, err))
			continue
		}
		all = errors.Join(all, s.update(ctx, func(t *meta.Tx) error {
			s.unhold(t, id, need)
			return nil
		}))
	}
	return all
}

func (s *Store) unhold(t *meta.Tx, id store.ID, need needs) {
	free := false
	for _, n := range t.SnapsOf(id) {
		if n.Held && !need.cloned[n.Number] {
			n.Held, free = false, true
			t.PutSnapshot(n)
		}
	}
	if i, ok := t.Images[id]; ok && i.Held && !need.unknown {
		i.Held, free = false, true
		t.PutImage(i)
	}
	if free {
		s.queueCollect(t, id)
	}
}
