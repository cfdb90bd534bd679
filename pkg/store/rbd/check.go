//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Check compares the catalogue with the cluster: that nothing is missing and nothing
// leaked. Deep opens each image and compares size, snapshots and parent. The data is the
// cluster's own to check.
func (s *Store) Check(ctx context.Context, deep bool) ([]store.Problem, error) {
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	defer s.end()
	found, err := s.check(ctx, deep)
	if err != nil {
		return nil, fmt.Errorf("check: %w", classify(err))
	}
	return found, nil
}

func (s *Store) check(ctx context.Context, deep bool) ([]store.Problem, error) {
	names, err := s.clusterNames()
	if err != nil {
		return nil, err
	}
	var images []meta.Image
	var found []store.Problem
	if err := s.cat.View(ctx, func(st *meta.State) error {
		for _, i := range st.Images {
			delete(names, i.Cluster)
			if !i.Foreign() {
				images = append(images, i)
			}
		}
		for _, n := range st.Snaps {
			if _, ok := st.Images[n.Image]; !ok {
				found = append(found, store.Problem{Object: n.Name, Text: "is the snapshot of an image without a row"})
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if len(names) > 0 { // gone by now, perhaps
		again, err := s.clusterNames()
		if err != nil {
			return nil, err
		}
		for name := range names {
			if again[name] {
				found = append(found, store.Problem{Object: name, Text: "is in the pool, but not in the catalogue", Harmless: true})
			}
		}
	}
	if !deep {
		return found, nil
	}
	for _, i := range images {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text, err := s.checkImage(ctx, i.ID)
		if err != nil {
			return nil, err
		}
		if text != "" {
			found = append(found, store.Problem{Object: i.Name, Text: text})
		}
	}
	slices.SortFunc(found, func(a, b store.Problem) int { return strings.Compare(a.Object, b.Object) })
	return found, nil
}

// clusterNames lists the images of this installation that the pool has, its trash
// included.
func (s *Store) clusterNames() (map[string]bool, error) {
	live, err := librbd.GetImageNames(s.c.io)
	if err != nil {
		return nil, fmt.Errorf("list the pool's images: %w", err)
	}
	trash, err := librbd.GetTrashList(s.c.io)
	if err != nil {
		return nil, fmt.Errorf("list the pool's trash: %w", err)
	}
	for _, t := range trash {
		live = append(live, t.Name)
	}
	names := map[string]bool{}
	for _, n := range live {
		if strings.HasPrefix(n, s.prefix()) {
			names[n] = true
		}
	}
	return names, nil
}

// checkImage opens an image and says what is wrong with it, "" if nothing is. What is
// being changed is not judged.
func (s *Store) checkImage(ctx context.Context, id store.ID) (string, error) {
	unlock, err := s.keys.lock(ctx, "image/"+string(id))
	if err != nil {
		return "", err
	}
	defer unlock()
	h, err := s.holdImage(ctx, id)
	if err != nil {
		return s.unopened(ctx, id, err)
	}
	var text string
	if err = h.enter(); err == nil {
		text, err = s.compare(ctx, h)
		h.leave()
	}
	return text, errors.Join(err, s.drop(h, false))
}

// unopened judges an image that cannot be opened.
func (s *Store) unopened(ctx context.Context, id store.ID, why error) (text string, err error) {
	err = s.cat.View(ctx, func(st *meta.State) error {
		if i, ok := st.Images[id]; ok && i.Phase == meta.Live {
			text = fmt.Sprintf("cannot be opened: %v", why)
		}
		return nil
	})
	return text, err
}

// rowsOf is what the catalogue has of an image and of its snapshots, whatever their
// phase; quiet tells whether the image is live and not being changed.
func (s *Store) rowsOf(ctx context.Context, id store.ID) (image meta.Image, rows map[string]meta.Snapshot, quiet bool, err error) {
	rows = map[string]meta.Snapshot{}
	err = s.cat.View(ctx, func(st *meta.State) error {
		for _, n := range st.SnapsOf(id) {
			rows[n.Cluster] = n
		}
		var ok bool
		image, ok = st.Images[id]
		_, busy := st.Taken(id)
		quiet = ok && !busy && image.Phase == meta.Live && !st.Flattening(id)
		return nil
	})
	return image, rows, quiet, err
}

// compare compares an image with its row. Snapshots come and go meanwhile, so those are
// judged that had the same state before and after the cluster was asked.
func (s *Store) compare(ctx context.Context, h *handle) (text string, err error) {
	was, before, quiet, err := s.rowsOf(ctx, h.obj.Image.ID)
	if err != nil {
		return "", err
	}
	size, err := h.img.GetSize()
	if err != nil {
		return "", err
	}
	list, err := h.img.GetSnapshotNames()
	if err != nil {
		return "", err
	}
	_, flat := h.img.GetParent()
	is, after, still, err := s.rowsOf(ctx, h.obj.Image.ID)
	if err != nil {
		return "", err
	}
	there := map[string]bool{}
	for _, x := range list {
		there[x.Name] = true
		name, err := snapshotName(h.img, x)
		if gone(err) {
			continue
		} else if err != nil {
			return "", err
		}
		_, known := before[name]
		if _, knownNow := after[name]; store.IsID(name) && !known && !knownNow {
			text = fmt.Sprintf("snapshot %s is in the cluster, but not in the catalogue", name)
		}
	}
	for name, n := range after {
		if old, ok := before[name]; ok && old.Phase == meta.Live && n.Phase == meta.Live && !there[name] {
			text = fmt.Sprintf("snapshot %s is missing", n.Name)
		}
	}
	switch {
	case !quiet || !still || was.Size != is.Size || (was.Parent == nil) != (is.Parent == nil):
	case int64(size) != is.Size:
		text = fmt.Sprintf("has %d bytes in the cluster, want %d", size, is.Size)
	case is.Shallow && is.Overlap == 0: // its snapshots may have the link alone
	case gone(flat) != (is.Parent == nil):
		text = fmt.Sprintf("has a clone link in the catalogue: %v, in the cluster: %v", is.Parent != nil, !gone(flat))
	}
	return text, nil
}
