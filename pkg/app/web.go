package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
)

// Web says how a process tells of itself over HTTP.
type Web struct {
	// Address is "host:port" for /metrics, /healthz and /readyz; "" serves none.
	Address string
	// Profile adds /debug/pprof/, which can slow the process down.
	Profile bool
}

// web is the HTTP server of a process. /healthz answers as soon as it is up; /readyz
// asks ready.
type web struct {
	cfg      Web
	registry *prometheus.Registry
	ready    func(context.Context) error
	server   *http.Server
	listener net.Listener
}

// newWeb makes the registry; listen and serve follow.
func newWeb(cfg Web, ready func(context.Context) error) *web {
	w := &web{cfg: cfg, registry: prometheus.NewRegistry(), ready: ready}
	w.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return w
}

// listen binds the address, so that a busy one fails the start.
func (w *web) listen() error {
	if w.cfg.Address == "" {
		return nil
	}
	ln, err := net.Listen("tcp", w.cfg.Address)
	if err != nil {
		return fmt.Errorf("serve metrics and health on %s: %w", w.cfg.Address, err)
	}
	w.listener = ln
	w.server = &http.Server{Handler: w.routes(), ReadHeaderTimeout: 10 * time.Second}
	return nil
}

// serve returns when the context ends.
func (w *web) serve(ctx context.Context) error {
	if w.server == nil {
		<-ctx.Done()
		return nil
	}
	klog.FromContext(ctx).V(1).Info("Telling of itself", "http", w.listener.Addr().String())
	stop := context.AfterFunc(ctx, func() { w.server.Close() })
	defer stop()
	if err := w.server.Serve(w.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and health: %w", err)
	}
	return nil
}

func (w *web) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, nil) })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) { answer(rw, w.ready(r.Context())) })
	if w.cfg.Profile {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(rw http.ResponseWriter, err error) {
	if err != nil {
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(rw, "ok")
}
