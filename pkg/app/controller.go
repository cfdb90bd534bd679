package app

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/driver"
	"github.com/strata-csi/strata/pkg/kube"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/volume"
)

// ControllerConfig is that of a controller process.
type ControllerConfig struct {
	// PoolsFile describes the pools.
	PoolsFile string
	// Endpoint is where CSI is served: unix:///path/csi.sock.
	Endpoint string
	Web      Web
	// Events says whether users are told of flattens by events; "" means auto.
	Events KubeEvents
	// Version is told to the CO and in the metrics.
	Version string
	// Stop bounds how long a stop may take; 0 means 30 s.
	Stop time.Duration
	// Ready, if set, is called once everything is served.
	Ready func()
}

// Controller serves the CSI controller until the context ends, which is no error, or
// something fails. It logs to the logger of the context. It keeps nothing: another one
// may take over at any time.
func Controller(ctx context.Context, cfg ControllerConfig) error {
	d := new(daemon)
	return d.run(ctx, cfg.Stop, func(context.Context) error {
		var up atomic.Bool
		if err := d.tell(cfg.Web, "controller", cfg.Version, readiness(&up)); err != nil {
			return err
		}
		r, err := loadReach(cfg.PoolsFile, false)
		if err != nil {
			return err
		}
		d.stack.pushPlain("connections to stores", r.pools.Close)
		events, err := d.events(cfg.Events, cfg.Version, "")
		if err != nil {
			return err
		}
		services := services{
			identity:   driver.NewIdentity(driver.IdentityConfig{Version: cfg.Version, Controller: true, Ready: up.Load}),
			controller: d.controller(r.pools, events),
		}
		if err := d.csi(cfg.Endpoint, services); err != nil {
			return err
		}
		up.Store(true)
		return nil
	}, cfg.Ready)
}

// controller makes the controller's service. Without a recorder nobody hears of flattens.
func (d *daemon) controller(pools *pool.Set, recorder *kube.Recorder) *driver.Controller {
	var watcher *kube.Watcher
	if recorder != nil {
		watcher = d.watchStores(pools, recorder)
	}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "strata_controller_events_total",
		Help: "Copies between stores that started, ended or failed, volumes that were forwarded from a full store, and clones above their soft depth, by kind.",
	}, []string{"kind"})
	d.web.registry.MustRegister(events)
	log := klog.LoggerWithName(d.log, "volume")
	volumes := volume.New(pools, volume.Options{Event: func(e volume.Event) {
		events.WithLabelValues(string(e.Kind)).Inc()
		deepened(watcher, e)
		log := log.WithValues("event", e.Kind, "pool", e.Pool, "image", e.Image, "store", e.Store, "bytes", e.Bytes)
		if e.Err != nil {
			log.Error(e.Err, "Background work failed")
			return
		}
		log.Info("Background work")
	}})
	d.stack.pushPlain("volumes", volumes.Close)
	return driver.NewController(volumes)
}
