//go:build ceph

package rbd

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// Stat describes one object.
func (s *Store) Stat(ctx context.Context, id store.ID) (info store.Info, err error) {
	err = s.view(ctx, func(st *meta.State) error {
		obj, err := st.Any(id)
		if err == nil {
			info = st.Info(obj)
		}
		return err
	})
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %q: %w", id, err)
	}
	return info, nil
}

// Lookup resolves "image" or "image@snapshot".
func (s *Store) Lookup(ctx context.Context, ref string) (info store.Info, err error) {
	image, snapshot, err := store.SplitRef(ref)
	if err == nil {
		err = s.view(ctx, func(st *meta.State) error {
			obj, err := st.Lookup(image, snapshot)
			if err == nil {
				info = st.Info(obj)
			}
			return err
		})
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("look up %q: %w", ref, err)
	}
	return info, nil
}

// Walk calls fn for every object, as of one instant. fn may use the store.
func (s *Store) Walk(ctx context.Context, fn func(store.Info) error) error {
	var list []store.Info
	if err := s.view(ctx, func(st *meta.State) error { list = st.List(); return nil }); err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	for _, info := range list {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("walk: %w", err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Children lists the images cloned from an image or a snapshot, by name.
func (s *Store) Children(ctx context.Context, id store.ID) (list []store.Info, err error) {
	err = s.view(ctx, func(st *meta.State) error {
		if _, err := st.Find(id, ""); err != nil {
			return err
		}
		for _, info := range st.List() {
			if info.Kind == store.KindImage && (info.Parent == id || info.ParentSnapshot == id) {
				list = append(list, info)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("children of %q: %w", id, err)
	}
	return list, nil
}

// Status describes the store. Layers counts images and snapshots in the cluster.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	status := store.Status{Backend: "ceph", Version: "1"}
	if err := s.view(ctx, func(st *meta.State) error {
		status.UUID, status.Layers = st.Meta.UUID, len(st.Images)+len(st.Snaps)
		for _, info := range st.List() {
			if info.Kind == store.KindImage {
				status.Images++
			} else {
				status.Snapshots++
			}
		}
		return nil
	}); err != nil {
		return store.Status{}, fmt.Errorf("status: %w", err)
	}
	if err := s.begin(ctx); err != nil {
		return store.Status{}, fmt.Errorf("status: %w", err)
	}
	defer s.end()
	space, err := s.c.conn.GetClusterStats()
	if err != nil {
		return store.Status{}, fmt.Errorf("status: %w", classify(err))
	}
	status.Total, status.Free = int64(space.Kb)<<10, int64(space.Kb_avail)<<10
	status.Copied = s.queue.Copied()
	status.Jobs, err = s.jobs(ctx)
	if err != nil {
		return store.Status{}, fmt.Errorf("status: %w", err)
	}
	return status, nil
}
