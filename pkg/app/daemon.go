package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

// daemon is a process that serves CSI, between start and stop.
type daemon struct {
	log   klog.Logger
	stack stack
	web   *web
	// serving are what runs until the context ends.
	serving []func(context.Context) error
}

// run starts, serves until the context ends, which is no error, and stops in order.
func (d *daemon) run(ctx context.Context, stop time.Duration, start func(context.Context) error, ready func()) error {
	d.log = klog.FromContext(ctx)
	err := start(ctx)
	if err == nil {
		err = d.serve(ctx, ready)
	}
	d.log.V(1).Info("Stopping")
	if stop <= 0 {
		stop = defaultStop
	}
	limit, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), stop, fmt.Errorf("not done after %v", stop))
	defer cancel()
	return errors.Join(err, d.stack.unwind(limit))
}

func (d *daemon) serve(ctx context.Context, ready func()) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range d.serving {
		g.Go(func() error {
			if err := serve(ctx); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	if ready != nil {
		ready()
	}
	return g.Wait()
}

// tell serves HTTP.
func (d *daemon) tell(cfg Web, process, version string, ready func(context.Context) error) error {
	d.web = newWeb(cfg, ready)
	d.web.registry.MustRegister(buildInfo(process, version))
	if err := d.web.listen(); err != nil {
		return err
	}
	d.serving = append(d.serving, d.web.serve)
	return nil
}
