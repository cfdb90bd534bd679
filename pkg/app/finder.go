package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// finder shows a node the pools.
type finder struct{ pools *pool.Set }

var _ stage.Finder = finder{}

// Find implements stage.Finder. What answers at an address may have changed since the
// pool was looked at, so the store is asked once more who it is.
func (f finder) Find(ctx context.Context, name, uuid string) (stage.Connection, error) {
	m, err := f.pools.Find(ctx, name, uuid)
	if err != nil {
		return stage.Connection{}, err
	}
	if err := m.Confirm(ctx); err != nil {
		return stage.Connection{}, err
	}
	uris, err := f.pools.Endpoints(ctx, name, m)
	if err != nil {
		return stage.Connection{}, err
	}
	c := stage.Connection{API: m.Remote}
	for _, uri := range uris {
		t, err := nbd.ParseURI(uri)
		if err != nil {
			return stage.Connection{}, fmt.Errorf("endpoint of %s: %w", m, err)
		}
		c.Targets = append(c.Targets, t)
	}
	return c, nil
}

// Lookup implements stage.Finder.
func (f finder) Lookup(ctx context.Context, name, ref string) (string, store.Info, error) {
	m, info, err := f.pools.Lookup(ctx, name, ref)
	return m.UUID, info, err
}

// Each implements stage.Finder. A store that is in several pools is called once.
func (f finder) Each(ctx context.Context, fn func(uuid string, api stage.API) error) error {
	var errs []error
	called := make(map[string]bool)
	for _, name := range f.pools.Names() {
		view, err := f.pools.View(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, view.Err())
		for _, m := range view.Members {
			if called[m.UUID] {
				continue
			}
			called[m.UUID] = true
			errs = append(errs, fn(m.UUID, m.Remote))
		}
	}
	return errors.Join(errs...)
}
