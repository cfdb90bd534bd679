package layered

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Usage implements store.Inspector. A layer that only this object stands on is its
// own; from the first one that something else needs too, all below is shared.
func (st *Store) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	u := store.Usage{ID: id}
	if err := st.alive(); err != nil {
		return u, err
	}
	var head meta.LayerID
	err := st.cat.View(func(tx *meta.Tx) error {
		u = store.Usage{ID: id}
		info, err := st.infoOf(tx, id)
		if err != nil {
			return err
		}
		u.Size = info.Size
		top, err := topLayer(tx, id, info.Kind)
		if err != nil {
			return err
		}
		if info.Kind == store.KindImage {
			head = top
		}
		return st.account(tx, top, info, &u)
	})
	if err != nil {
		return u, fmt.Errorf("usage: %w", err)
	}
	if head == 0 {
		return u, nil
	}
	ref := st.layers.acquire(head)
	defer st.layers.release(ref)
	lay, err := ref.get()
	if err != nil {
		return u, fmt.Errorf("usage: %w", err)
	}
	data, _ := lay.Blocks()
	u.Own += data * blockSize
	return u, ctx.Err()
}

func (st *Store) account(tx *meta.Tx, top meta.LayerID, info store.Info, u *store.Usage) error {
	alone := true
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
		bytes := l.Data * blockSize
		if alone {
			u.Own += bytes
		} else {
			u.Shared += bytes
		}
		if l.Image != info.Image && refs == 0 {
			img, err := tx.Image(l.Image)
			if err != nil {
				return err
			}
			if img.Removed {
				u.Retained += bytes
				if !removed[l.Image] {
					removed[l.Image] = true
					u.RetainedFor = append(u.RetainedFor, fmt.Sprintf("removed image %q is read by %s", img.Name, info.Ref()))
				}
			}
		}
		id = l.Parent
	}
	return nil
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
