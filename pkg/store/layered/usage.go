package layered

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Usage implements store.Inspector. A layer that only this object stands on is its
// own; from the first one that something else needs too, all below is shared.
func (st *Store) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	for {
		if err := st.alive(); err != nil {
			return store.Usage{ID: id}, err
		}
		a := accounting{st: st}
		err := st.cat.View(func(tx *meta.Tx) error {
			a.reset(id)
			return a.walk(tx, id)
		})
		changed := false
		if err == nil {
			changed, err = a.measure()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return a.usage, fmt.Errorf("usage: %w", err)
		}
		if !changed {
			return a.usage, nil
		}
	}
}

// accounting adds up what one object costs. The catalogue does not know how much data is
// in a head, or in layers that a merge is at work on or has been given up for: those
// layers are asked. Of a merge under way a batch may count on both sides.
type accounting struct {
	st    *Store
	usage store.Usage
	ask   []share
}

// share is a layer's part in the usage.
type share struct {
	row             meta.Layer
	alone, retained bool
}

func (a *accounting) reset(id store.ID) {
	a.usage, a.ask = store.Usage{ID: id}, nil
}

func (a *accounting) add(s share, bytes int64) {
	if s.alone {
		a.usage.Own += bytes
	} else {
		a.usage.Shared += bytes
	}
	if s.retained {
		a.usage.Retained += bytes
	}
}

func (a *accounting) walk(tx *meta.Tx, object store.ID) error {
	info, err := a.st.infoOf(tx, object)
	if err != nil {
		return err
	}
	a.usage.Size = info.Size
	top, err := topLayer(tx, object, info.Kind)
	if err != nil {
		return err
	}
	alone, merged := true, false
	removed := map[store.ID]bool{}
	for id := top; id != 0; {
		l, err := tx.Layer(id)
		if err != nil {
			return err
		}
		refs, err := references(tx, l)
		if err != nil {
			return err
		}
		kids, err := lastingKids(tx, id, 2)
		if err != nil {
			return err
		}
		mine, below := 0, 1
		if id == top {
			mine, below = 1, 0
		}
		alone = alone && refs == mine && kids == below
		s := share{row: l, alone: alone}
		if l.Image != info.Image && refs == 0 {
			if s.retained, err = a.retains(tx, l.Image, info, removed); err != nil {
				return err
			}
		}
		if merged, err = a.atWork(tx, l); err != nil {
			return err
		}
		if merged || l.Data == 0 {
			a.ask = append(a.ask, s)
		} else {
			a.add(s, l.Data*blockSize)
		}
		id = l.Parent
	}
	return nil
}

// retains tells whether a layer belongs to a removed image, and names that once.
func (a *accounting) retains(tx *meta.Tx, owner store.ID, reader store.Info, named map[store.ID]bool) (bool, error) {
	img, err := tx.Image(owner)
	if err != nil || !img.Removed {
		return false, err
	}
	if !named[owner] {
		named[owner] = true
		a.usage.RetainedFor = append(a.usage.RetainedFor, fmt.Sprintf("removed image %q is read by %s", img.Name, reader.Ref()))
	}
	return true, nil
}

// atWork tells whether a layer's count in the catalogue may not hold, as it is a side of
// a merge.
func (a *accounting) atWork(tx *meta.Tx, l meta.Layer) (bool, error) {
	if l.Merging != 0 || l.Parent == 0 {
		return l.Merging != 0, nil
	}
	below, err := tx.Layer(l.Parent)
	return err == nil && below.Merging == l.ID, err
}

// measure asks the layers that the catalogue cannot tell of. changed says that one of
// them is gone since.
func (a *accounting) measure() (changed bool, err error) {
	for _, s := range a.ask {
		data, err := a.st.dataIn(s.row.ID)
		if err == nil {
			a.add(s, data*blockSize)
			continue
		}
		_, gone := a.st.layerRow(s.row.ID)
		switch {
		case errors.Is(gone, store.ErrNotFound):
			return true, nil
		case !s.row.Sealed || a.st.closed.Load():
			return false, err
		}
		a.add(s, s.row.Data*blockSize) // it is damaged, which is told elsewhere
	}
	return false, nil
}

// dataIn is how many data blocks a layer has now.
func (st *Store) dataIn(id meta.LayerID) (int64, error) {
	ref := st.layers.acquire(id)
	defer st.layers.release(ref)
	lay, err := ref.get()
	if err != nil {
		return 0, err
	}
	data, _ := lay.Blocks()
	return data, nil
}

// lastingKids counts the layers directly above one, up to most and without those of
// private heads: what they read is not theirs.
func lastingKids(tx *meta.Tx, id meta.LayerID, most int) (n int, err error) {
	kids, err := tx.Children(id)
	for _, k := range kids {
		l, err := tx.Layer(k)
		if err != nil {
			return 0, err
		}
		img, err := tx.Image(l.Image)
		if err != nil {
			return 0, err
		}
		if !img.Scratch {
			n++
		}
		if n == most {
			break
		}
	}
	return n, err
}

// references counts the heads and snapshots on a layer.
func references(tx *meta.Tx, l meta.Layer) (int, error) {
	snaps, err := tx.SnapshotsOn(l.ID)
	if err != nil {
		return 0, err
	}
	img, err := tx.Image(l.Image)
	if err != nil {
		return 0, err
	}
	n := len(snaps)
	if img.Head == l.ID {
		n++
	}
	return n, nil
}

// Children implements store.Inspector.
func (st *Store) Children(_ context.Context, id store.ID) (list []store.Info, err error) {
	if err := st.alive(); err != nil {
		return nil, err
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		info, err := st.infoOf(tx, id)
		if err != nil {
			return err
		}
		from, err := tx.LayersOf(info.Image)
		if err != nil {
			return err
		}
		if info.Kind == store.KindSnapshot {
			s, err := tx.Snapshot(id)
			if err != nil {
				return err
			}
			from = []meta.LayerID{s.Layer}
		}
		for _, layer := range from {
			if err := st.childrenOn(tx, layer, info, &list); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// childrenOn lists the living images that stand on a layer with their root.
func (st *Store) childrenOn(tx *meta.Tx, on meta.LayerID, parent store.Info, list *[]store.Info) error {
	kids, err := tx.Children(on)
	if err != nil {
		return err
	}
	for _, k := range kids {
		l, err := tx.Layer(k)
		if err != nil {
			return err
		}
		if l.Image == parent.Image {
			continue
		}
		img, err := tx.Image(l.Image)
		if err != nil {
			return err
		}
		if img.Removed || img.Scratch || parent.Kind == store.KindSnapshot && img.Origin != parent.ID {
			continue
		}
		info, err := st.imageInfo(tx, img)
		if err != nil {
			return err
		}
		*list = append(*list, info)
	}
	return nil
}
