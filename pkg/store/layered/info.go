package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Stat implements store.Store.
func (st *Store) Stat(_ context.Context, id store.ID) (info store.Info, err error) {
	if err := st.alive(); err != nil {
		return info, err
	}
	err = st.cat.View(func(tx *meta.Tx) (err error) {
		info, err = st.infoOf(tx, id)
		return err
	})
	return info, err
}

// Lookup implements store.Store. A snapshot whose image was removed is found by the
// old name as long as no living image and no second removed one has it.
func (st *Store) Lookup(_ context.Context, ref string) (info store.Info, err error) {
	if err := st.alive(); err != nil {
		return info, err
	}
	image, snap, err := store.SplitRef(ref)
	if err != nil {
		return info, err
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		img, err := tx.ImageByName(image)
		switch {
		case errors.Is(err, store.ErrNotFound) && snap != "":
			info, err = st.lookupOrphan(tx, image, snap)
			return err
		case err != nil:
			return err
		case snap == "":
			info, err = st.imageInfo(tx, img)
			return err
		}
		s, err := tx.SnapshotByName(img.ID, snap)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", ref, err)
		}
		info, err = st.snapshotInfo(tx, s)
		return err
	})
	return info, err
}

func (st *Store) lookupOrphan(tx *meta.Tx, image, snap string) (info store.Info, err error) {
	found := 0
	err = tx.WalkImages(func(img meta.Image) error {
		if !img.Removed || img.Name != image {
			return nil
		}
		s, err := tx.SnapshotByName(img.ID, snap)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found++
		info, err = st.snapshotInfo(tx, s)
		return err
	})
	switch {
	case err != nil:
		return info, err
	case found == 0:
		return info, fmt.Errorf("image %q: %w", image, store.ErrNotFound)
	case found > 1:
		return info, fmt.Errorf("%q was the name of several removed images with a snapshot %q, use the snapshot's id: %w", image, snap, store.ErrConflict)
	}
	return info, nil
}

// Walk implements store.Store. fn runs outside of any transaction.
func (st *Store) Walk(ctx context.Context, fn func(store.Info) error) error {
	if err := st.alive(); err != nil {
		return err
	}
	var all []store.Info
	err := st.cat.View(func(tx *meta.Tx) error {
		return tx.WalkImages(func(img meta.Image) error {
			if !img.Removed && !img.Scratch {
				info, err := st.imageInfo(tx, img)
				if err != nil {
					return err
				}
				all = append(all, info)
			}
			snaps, err := tx.SnapshotsOf(img.ID)
			if err != nil {
				return err
			}
			for _, s := range snaps {
				info, err := st.snapshotInfo(tx, s)
				if err != nil {
					return err
				}
				all = append(all, info)
			}
			return ctx.Err()
		})
	})
	for i := 0; err == nil && i < len(all); i++ {
		err = fn(all[i])
	}
	return err
}

// infoOf describes an image or snapshot.
func (st *Store) infoOf(tx *meta.Tx, id store.ID) (store.Info, error) {
	img, err := tx.Image(id)
	if err == nil && !img.Removed {
		return st.imageInfo(tx, img)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Info{}, err
	}
	s, err := tx.Snapshot(id)
	if errors.Is(err, store.ErrNotFound) {
		return store.Info{}, fmt.Errorf("no image or snapshot %s: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return store.Info{}, err
	}
	return st.snapshotInfo(tx, s)
}

func (st *Store) imageInfo(tx *meta.Tx, img meta.Image) (store.Info, error) {
	info := store.Info{ID: img.ID, Kind: store.KindImage, Name: img.Name, Image: img.ID, ImageName: img.Name,
		BlockSize: img.BlockSize, Policy: st.effective(img.Policy), Limits: img.Limits, Format: img.Format,
		Created: img.Created, Digest: img.Digest}
	n, err := tx.SnapshotCount(img.ID)
	if err != nil {
		return info, err
	}
	info.Snapshots = n
	return info, st.describe(tx, &info, img, img.Head, img.Overlap)
}

func (st *Store) snapshotInfo(tx *meta.Tx, s meta.Snapshot) (store.Info, error) {
	img, err := tx.Image(s.Image)
	if err != nil {
		return store.Info{}, err
	}
	info := store.Info{ID: s.ID, Kind: store.KindSnapshot, Name: s.Name, Image: img.ID, ImageName: img.Name,
		ImageRemoved: img.Removed, BlockSize: img.BlockSize, Policy: st.effective(img.Policy), Format: s.Format,
		Created: s.Created, Digest: s.Digest}
	return info, st.describe(tx, &info, img, s.Layer, s.Overlap)
}

// describe fills in what follows from the layers: size, lineage, state.
func (st *Store) describe(tx *meta.Tx, info *store.Info, img meta.Image, top meta.LayerID, overlap int64) error {
	shown, err := tx.Layer(top)
	if err != nil {
		return err
	}
	info.Size = shown.Size
	root, err := tx.Layer(img.Root)
	if err != nil {
		return err
	}
	if root.Parent != 0 {
		info.Overlap = min(overlap, root.Overlap)
		if err := st.describeParent(tx, info, img, root.Parent); err != nil {
			return err
		}
	}
	if info.Depth, err = tx.Depth(img.ID); err != nil {
		return err
	}
	pubs, err := publicationsOf(tx, info.ID)
	if err != nil {
		return err
	}
	if len(pubs) > 0 {
		info.Node = pubs[0].Node
	}
	info.State, info.Reason = st.stateOf(tx, info, img, top)
	return nil
}

func (st *Store) describeParent(tx *meta.Tx, info *store.Info, img meta.Image, parent meta.LayerID) error {
	below, err := tx.Layer(parent)
	if err != nil {
		return err
	}
	from, err := tx.Image(below.Image)
	if err != nil {
		return err
	}
	info.Parent, info.ParentName = from.ID, from.Name
	snaps, err := tx.SnapshotsOn(parent)
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if s.ID == img.Origin {
			info.ParentSnapshot, info.ParentName = s.ID, from.Name+"@"+s.Name
		}
	}
	return nil
}

func (st *Store) stateOf(tx *meta.Tx, info *store.Info, img meta.Image, top meta.LayerID) (store.State, string) {
	if reason := st.damageBelow(tx, top); reason != "" {
		return store.StateFaulty, reason
	}
	if info.Kind == store.KindImage && img.Poison != "" {
		return store.StateReadOnly, img.Poison
	}
	if st.jobs != nil {
		if j, found := st.jobs.Find(store.JobFlatten, string(img.ID)); found && j.State != store.JobFailed && info.Depth > 0 {
			return store.StateFlattening, ""
		}
	}
	return store.StateReady, ""
}

// effective fills in the store's defaults.
func (st *Store) effective(p store.Policy) store.Policy {
	if p.Soft == 0 {
		p.Soft = st.opts.Policy.Soft
	}
	if p.Hard == 0 {
		p.Hard = max(st.opts.Policy.Hard, p.Soft)
	}
	return p
}
