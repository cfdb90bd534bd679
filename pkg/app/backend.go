package app

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
)

// openBackend opens the embedded store in the data directory, or the pool of a cluster,
// which it makes first if that was asked for.
func openBackend(ctx context.Context, cfg Config, log klog.Logger) (store.Full, error) {
	switch {
	case cfg.Backend != nil:
		return cfg.Backend(cfg.Data)
	case cfg.Gateway.Pool != "":
		return cfg.Gateway.open(ctx, cfg)
	}
	if cfg.Init {
		if err := layered.Init(cfg.Data, string(store.NewID())); err != nil {
			return nil, err
		}
	}
	s, err := layered.Open(cfg.Data, layered.Options{
		Policy:    cfg.Policy,
		CopyRate:  cfg.CopyRate,
		StableAck: cfg.StableAck,
		DirectIO:  cfg.DirectIO,
		AllocUnit: cfg.AllocUnit, ScrubEvery: cfg.ScrubEvery, ScrubRate: cfg.ScrubRate,
		OnEvent: func(e layered.Event) { logEvent(log, e) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// logEvent tells the operator what the engine has to say.
func logEvent(log klog.Logger, e layered.Event) {
	if e.Err == nil || errors.Is(e.Err, store.ErrClosed) {
		log.Info(e.Text, "object", e.Object)
		return
	}
	log.Error(e.Err, e.Text, "object", e.Object)
}
