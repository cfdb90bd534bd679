package app

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strata-csi/strata/pkg/driver"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// AllConfig is that of a process that is store, controller and node of one machine.
type AllConfig struct {
	// Store is the configuration of the store; its Ready, Web and Node are not used.
	Store Config
	// Node is the configuration of controller and node. Its Pools hold one pool, made
	// of the store, and are not read.
	Node NodeConfig
	// Pool is the name of that pool; "" means default.
	Pool string
}

// All serves a store, the CSI controller and the CSI node in one process until the
// context ends, which is no error, or something fails. Its end takes the store away, so
// I/O waits until the next start.
func All(ctx context.Context, cfg AllConfig) error {
	if cfg.Pool == "" {
		cfg.Pool = "default"
	}
	serving := make(chan struct{})
	cfg.Store.Ready = func(Serving) { close(serving) }
	cfg.Store.Web = Web{}
	cfg.Store.Node = cfg.Node.Node
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := Store(ctx, cfg.Store)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the store has ended")
		}
		return err
	})
	g.Go(func() error {
		select {
		case <-serving:
		case <-ctx.Done():
			return nil // the store says why
		}
		return cfg.csi(ctx)
	})
	return g.Wait()
}

// csi serves controller and node on one socket.
func (cfg AllConfig) csi(ctx context.Context) error {
	d := new(daemon)
	n := cfg.Node
	return d.run(ctx, n.Stop, func(ctx context.Context) error {
		var up atomic.Bool
		if err := d.tell(n.Web, "all", n.Version, readiness(&up)); err != nil {
			return err
		}
		r, err := newReach(pool.Config{Pools: []pool.Settings{{
			Name: cfg.Pool, Default: true, Backend: pool.BackendLayered, Local: cfg.Store.Data,
		}}}, false)
		if err != nil {
			return err
		}
		d.stack.pushPlain("connections to the store", r.pools.Close)
		src, err := storeapi.Dial(cfg.Store.Data, storeapi.DialOptions{})
		if err != nil {
			return err
		}
		d.stack.pushPlain("connection for metrics", src.Close)
		d.web.registry.MustRegister(newStoreMetrics(src))
		events, err := d.events(n.Events, n.Version, n.Node)
		if err != nil {
			return err
		}
		node, err := d.node(ctx, n, r, events)
		if err != nil {
			return err
		}
		both := services{
			identity:   driver.NewIdentity(driver.IdentityConfig{Version: n.Version, Controller: true, Ready: up.Load}),
			controller: d.controller(r.pools, events), node: node,
		}
		if err := d.csi(n.Endpoint, both); err != nil {
			return err
		}
		if err := d.register(n); err != nil {
			return err
		}
		up.Store(true)
		return nil
	}, n.Ready)
}
