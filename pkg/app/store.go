package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// Store serves a data directory until the context ends, which is no error, or
// something fails. It logs to the logger of the context. ErrInUse: another process
// serves the directory. ErrNotFound: it is no store. ErrInvalid: the configuration.
func Store(ctx context.Context, cfg Config) error {
	cfg, err := cfg.normal()
	if err != nil {
		return err
	}
	for last := (time.Time{}); ; {
		err := runStore(ctx, cfg)
		if !errors.Is(err, errShutOut) {
			return err
		}
		if time.Since(last) < tooSoon {
			return fmt.Errorf("%w again within %v; if another one has the name %q, give it one of its own with --member", err, tooSoon, cfg.Gateway.Member)
		}
		klog.FromContext(ctx).Error(err, "Going on as a new client")
		last, cfg.Init = time.Now(), false
	}
}

// runStore is one life of a store process.
func runStore(ctx context.Context, cfg Config) error {
	p := &process{cfg: cfg, log: klog.FromContext(ctx)}
	err := p.start(ctx)
	if err == nil {
		err = p.serve(ctx)
	}
	p.log.V(1).Info("Stopping")
	stop, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), cfg.Stop,
		fmt.Errorf("not done after %v", cfg.Stop))
	defer cancel()
	return errors.Join(err, p.stack.unwind(stop))
}

// process is a store process between start and stop.
type process struct {
	cfg      Config
	log      klog.Logger
	stack    stack
	warnings []string

	backend  store.Full
	registry *export.Registry
	nbd      *nbd.Server
	api      *grpc.Server
	web      *web
	forNBD   []net.Listener
	forAPI   []net.Listener
	serving  Serving
}

// start brings up everything but the serving. After an error the stack holds what
// has to be undone.
func (p *process) start(ctx context.Context) error {
	open := func() error { return p.open(ctx) }
	for _, step := range []func() error{p.mark, p.certificates, p.lock, open, p.bind, p.assemble} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mark makes the threads I/O flushers.
func (p *process) mark() error {
	err := becomeIOFlusher()
	if errors.Is(err, errCgo) && p.cfg.Reexec {
		err = reexecAsIOFlusher()
	}
	if err == nil {
		return nil
	}
	if !p.cfg.AllowUnsafe {
		return fmt.Errorf("%w; kernel NBD devices on this machine could deadlock under memory pressure; give the right, or accept that with --allow-unsafe", err)
	}
	p.log.Info("Starting although it is unsafe to attach devices on this machine", "err", err)
	p.warnings = append(p.warnings, fmt.Sprintf("unsafe for kernel NBD devices on the store's own machine: %v", err))
	return nil
}

// lock takes the data directory.
func (p *process) lock() error {
	if p.cfg.Init || p.cfg.Gateway.Pool != "" {
		if err := os.MkdirAll(p.cfg.Data, 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	st, err := os.Stat(p.cfg.Data)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("data directory %s does not exist; a new store is made with --init: %w", p.cfg.Data, store.ErrNotFound)
	case err != nil:
		return fmt.Errorf("data directory: %w", err)
	case !st.IsDir():
		return fmt.Errorf("data directory %s is a file: %w", p.cfg.Data, store.ErrInvalid)
	}
	l, err := lockDir(p.cfg.Data)
	if err != nil {
		return err
	}
	p.stack.pushPlain("lock", l.unlock)
	return nil
}

// open opens the backend, after making it if that was asked for.
func (p *process) open(ctx context.Context) error {
	b, err := openBackend(ctx, p.cfg, p.log)
	if p.cfg.InitOnce != "" && errors.Is(err, store.ErrNotFound) {
		cfg := p.cfg
		cfg.Init = true
		if err = p.once().first(); err == nil {
			b, err = openBackend(ctx, cfg, p.log)
		}
	}
	if err != nil {
		return err
	}
	p.backend = b
	p.stack.pushPlain("backend", b.Close)
	return nil
}

// bind makes all listeners, so that a busy address fails the start.
func (p *process) bind() error {
	forNBD, forAPI, err := p.cfg.listens()
	if err != nil {
		return err
	}
	for _, l := range forNBD {
		ln, err := p.bindOne(l)
		if err != nil {
			return fmt.Errorf("serve NBD on %w", err)
		}
		p.forNBD = append(p.forNBD, ln)
		t := nbd.Target{Network: ln.Addr().Network(), Address: ln.Addr().String(), TLS: p.secured(ln)}
		p.serving.NBD = append(p.serving.NBD, t.String())
	}
	for _, l := range forAPI {
		ln, err := p.bindOne(l)
		if err != nil {
			return fmt.Errorf("serve the API on %w", err)
		}
		p.forAPI = append(p.forAPI, ln)
		p.serving.API = append(p.serving.API, ln.Addr().String())
	}
	return nil
}

func (p *process) bindOne(l listen) (net.Listener, error) {
	ln, err := bind(l)
	if err != nil {
		return nil, err
	}
	p.stack.pushPlain("listener "+l.String(), func() error {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return ln, nil
}

// serve serves until the context ends or a listener fails.
func (p *process) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ended := func(err error, orderly error) error {
		if errors.Is(err, orderly) || ctx.Err() != nil {
			return nil
		}
		return err
	}
	for _, ln := range p.forNBD {
		g.Go(func() error { return ended(p.serveNBD(ctx, ln), nbd.ErrServerClosed) })
	}
	for _, ln := range p.forAPI {
		g.Go(func() error {
			stop := context.AfterFunc(ctx, func() { ln.Close() })
			defer stop()
			return ended(p.api.Serve(ln), grpc.ErrServerStopped)
		})
	}
	g.Go(func() error { return p.web.serve(klog.NewContext(ctx, p.log)) })
	g.Go(func() error { return shutOut(ctx, p.backend) })
	p.log.Info("Serving", "store", p.serving.UUID, "data", p.cfg.Data, "api", p.serving.API, "nbd", p.serving.NBD)
	if p.cfg.Ready != nil {
		p.cfg.Ready(p.serving)
	}
	return g.Wait()
}

// assemble makes the servers and says how they end.
func (p *process) assemble() error {
	st, err := p.backend.Status(context.Background())
	if err != nil {
		return err
	}
	p.serving.UUID = st.UUID
	p.remember()
	p.exports()
	p.api = grpc.NewServer(storeapi.ServerOptions(klog.LoggerWithName(p.log, "api"), p.cfg.TLS)...)
	full := &served{Full: p.backend, registry: p.registry, tls: p.cfg.TLS, warnings: p.warnings, node: p.cfg.Node}
	storeapi.NewServer(full, p.serving.NBD...).Register(p.api)
	p.stack.push("API", p.stopAPI)
	back, err := newReturning(context.Background(), full, p.cfg.ReturnTimeout)
	if err != nil {
		return err
	}
	p.web = newWeb(p.cfg.Web, func(ctx context.Context) error {
		if _, err := full.Status(ctx); err != nil {
			return err
		}
		return back.ready(ctx)
	})
	p.web.registry.MustRegister(newStoreMetrics(full), newTrafficMetrics(p.registry.Traffic), buildInfo("store", p.cfg.Version))
	return p.web.listen()
}

// stopAPI lets short requests finish. Those that stream may last for hours and are
// cut after a third of the time there is.
func (p *process) stopAPI(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, p.cfg.Stop/3)
	defer cancel()
	done := make(chan struct{})
	go func() {
		p.api.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-grace.Done():
		p.api.Stop()
		<-done
	}
	return nil
}
