package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// Metadata contexts beside nbd.ContextAllocation.
const (
	// contextDepth tells where a run lives, see store.Extent.Depth.
	contextDepth = "qemu:allocation-depth"
	// contextBitmap, followed by the name of a snapshot, tells what has changed since.
	contextBitmap = "qemu:dirty-bitmap:"
)

// Contexts lists the metadata contexts that match a query. A bitmap exists for each
// snapshot of the same image that is in the object's own history.
func (r *Registry) Contexts(ctx context.Context, exportName, query string, c *nbd.Conn) ([]string, error) {
	info, _, err := r.resolve(ctx, exportName, c)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, fixed := range []string{nbd.ContextAllocation, contextDepth} {
		if matches(fixed, query) {
			names = append(names, fixed)
		}
	}
	snapshots, err := r.candidates(ctx, info, query)
	if err != nil || len(snapshots) == 0 {
		return names, err
	}
	o := r.object(info.ID)
	defer r.release(o)
	dev, err := o.dev.open(ctx)
	if err != nil {
		return nil, refused(info.Ref(), err)
	}
	for _, s := range snapshots {
		// The device alone knows its history; after a roll-back, newer snapshots
		// are not part of it.
		err := dev.Extents(0, store.Block, s.ID, func(store.Extent) bool { return false })
		if err == nil {
			names = append(names, contextBitmap+s.Name)
		}
	}
	return names, o.dev.close()
}

// matches tells whether a query selects a context.
func matches(name, query string) bool {
	return query == "" || query == name || strings.HasSuffix(query, ":") && strings.HasPrefix(name, query)
}

// candidates are the snapshots that a query may mean.
func (r *Registry) candidates(ctx context.Context, info store.Info, query string) ([]store.Info, error) {
	if one, ok := strings.CutPrefix(query, contextBitmap); ok && one != "" {
		s, err := r.snapshot(ctx, info, one)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
			return nil, nil
		}
		if err != nil {
			return nil, refused(info.Ref(), err)
		}
		return []store.Info{s}, nil
	}
	if !strings.HasPrefix(contextBitmap, query) || query != "" && !strings.HasSuffix(query, ":") {
		return nil, nil
	}
	var list []store.Info
	err := r.src.Walk(ctx, func(i store.Info) error {
		if i.Kind == store.KindSnapshot && i.Image == info.Image && i.ID != info.ID {
			list = append(list, i)
		}
		return nil
	})
	if err != nil {
		return nil, refused(info.Ref(), err)
	}
	slices.SortFunc(list, func(a, b store.Info) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// snapshot finds a snapshot of the same image by its name.
func (r *Registry) snapshot(ctx context.Context, of store.Info, snapshot string) (store.Info, error) {
	s, err := r.src.Lookup(ctx, of.ImageName+"@"+snapshot)
	if err != nil {
		return store.Info{}, err
	}
	if s.Image != of.Image || s.ID == of.ID {
		return store.Info{}, fmt.Errorf("%s has no older snapshot %q: %w", of.Ref(), snapshot, store.ErrNotFound)
	}
	return s, nil
}
