//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Usage accounts one object, in whole objects of the cluster as its object maps have
// them. Own is what an image has stored since its newest snapshot; all else counts as
// shared, unless nothing else can read it.
func (s *Store) Usage(ctx context.Context, id store.ID) (store.Usage, error) {
	if err := s.begin(ctx); err != nil {
		return store.Usage{}, fmt.Errorf("usage of %q: %w", id, err)
	}
	defer s.end()
	h, err := s.hold(ctx, id, false, func(st *meta.State) (meta.Object, error) { return st.Any(id) })
	if err != nil {
		return store.Usage{}, fmt.Errorf("usage of %q: %w", id, err)
	}
	var u store.Usage
	if err = h.enter(); err == nil {
		u, err = s.usage(ctx, h)
		h.leave()
	}
	if err = errors.Join(err, s.drop(h, false)); err != nil {
		return store.Usage{}, fmt.Errorf("usage of %q: %w", id, classify(err))
	}
	return u, nil
}

func (s *Store) usage(ctx context.Context, h *handle) (store.Usage, error) {
	u := store.Usage{ID: h.obj.ID(), Size: h.size.Load()}
	since := librbd.NoSnapshot
	var reasons []string
	if err := s.cat.View(ctx, func(st *meta.State) error {
		if all := st.SnapsOf(h.obj.Image.ID); len(all) > 0 {
			since = all[len(all)-1].Cluster
		}
		reasons = retainedFor(st, h.obj)
		return nil
	}); err != nil {
		return u, err
	}
	all, err := h.spans(librbd.NoSnapshot, 0, u.Size, true)
	if err != nil {
		return u, err
	}
	here, err := h.spans(librbd.NoSnapshot, 0, u.Size, false)
	if err != nil {
		return u, err
	}
	total, mine := sum(all), sum(here)
	switch {
	case h.obj.Snap == nil && since == librbd.NoSnapshot:
		u.Own = mine
	case h.obj.Snap == nil:
		fresh, err := h.spans(since, 0, u.Size, false)
		if err != nil {
			return u, err
		}
		u.Own = sum(meet(fresh, here))
	}
	u.Shared = total - u.Own
	if u.Retained = total - mine; len(reasons) == 0 {
		u.Retained = 0
	}
	if u.Retained > 0 {
		u.RetainedFor = reasons
	}
	return u, nil
}

// retainedFor names the removed ancestors that an object reads, down to the first that
// is there for others too.
func retainedFor(st *meta.State, obj meta.Object) (reasons []string) {
	i := obj.Image
	for i.Parent != nil {
		snap := st.Snaps[i.Parent.Snapshot]
		if i = st.Images[i.Parent.Image]; i.Foreign() || i.Phase != meta.Removed || snap.Phase == meta.Live && !snap.Internal {
			return reasons
		}
		name := i.Name
		if snap.Name != "" {
			name = strings.Join([]string{i.Name, snap.Name}, "@")
		}
		reasons = append(reasons, fmt.Sprintf("%s: removed, but %s still reads it", name, obj.Ref()))
	}
	return reasons
}

// meet returns what two lists have in common.
func meet(a, b []span) (list []span) {
	for len(a) > 0 && len(b) > 0 {
		if s := (span{max(a[0].off, b[0].off), min(a[0].end, b[0].end)}); s.off < s.end {
			list = append(list, s)
		}
		if a[0].end < b[0].end {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return list
}
