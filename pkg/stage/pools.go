package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Pools is the Finder over the pools of a pools file.
type Pools struct{ Set *pool.Set }

var _ Finder = Pools{}

// Find implements Finder.
func (p Pools) Find(ctx context.Context, name, uuid string) (Connection, error) {
	m, err := p.Set.Find(ctx, name, uuid)
	if err != nil {
		return Connection{}, err
	}
	uris, err := p.Set.Endpoints(ctx, name, m)
	if err != nil {
		return Connection{}, err
	}
	c := Connection{API: m.Remote}
	for _, uri := range uris {
		t, err := nbd.ParseURI(uri)
		if err != nil {
			return Connection{}, fmt.Errorf("%s: %w: %w", m, err, store.ErrInvalid)
		}
		c.Targets = append(c.Targets, t)
	}
	return c, nil
}

// Lookup implements Finder.
func (p Pools) Lookup(ctx context.Context, name, ref string) (string, store.Info, error) {
	m, info, err := p.Set.Lookup(ctx, name, ref)
	return m.UUID, info, err
}

// Each implements Finder.
func (p Pools) Each(ctx context.Context, fn func(uuid string, api API) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs error
	)
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = errors.Join(errs, err)
	}
	for _, name := range p.Set.Names() {
		v, err := p.Set.View(ctx, name)
		if err != nil {
			fail(err)
			continue
		}
		for _, m := range v.Members {
			wg.Go(func() {
				if err := fn(m.UUID, m.Remote); err != nil {
					fail(fmt.Errorf("%s: %w", m, err))
				}
			})
		}
	}
	wg.Wait()
	return errs
}
