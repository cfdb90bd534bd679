package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// registration is what a node says of itself in its note at every store.
type registration struct {
	MaxVolumes int64 `json:"maxVolumes"`
}

// nodeNote begins the keys of such notes.
const nodeNote = "node/"

// A store that was away is told within registerEvery of its return; until the first
// registration at any store, within registerSoon.
const (
	registerEvery = 30 * time.Second
	registerSoon  = time.Second
)

// MaxVolumes is how many volumes the node can have, those it has included.
func (s *Service) MaxVolumes(ctx context.Context) (int64, error) {
	free, err := s.cfg.Kernel.Free()
	if err != nil {
		return 0, fmt.Errorf("count free devices: %w", err)
	}
	ours, err := s.cfg.Kernel.Devices(ctx)
	if err != nil {
		return 0, fmt.Errorf("count devices: %w", err)
	}
	return int64(free + len(ours)), nil
}

// register keeps the node's note at every store. Volumes are published only to nodes
// that have one.
func (s *Service) register() {
	told := false
	for {
		told = s.announce(s.quit) > 0 || told
		pause := time.NewTimer(registerEvery)
		if !told {
			pause.Reset(registerSoon)
		}
		select {
		case <-pause.C:
		case <-s.quit.Done():
			pause.Stop()
			return
		}
	}
}

// announce writes the node's note where it is missing or says something else, and tells
// how many stores have it.
func (s *Service) announce(ctx context.Context) (stores int64) {
	most, err := s.MaxVolumes(ctx)
	if err != nil {
		s.cfg.Notify(Event{Kind: Unregistered, Err: err})
		return 0
	}
	text, err := json.Marshal(registration{MaxVolumes: most})
	if err != nil {
		s.cfg.Notify(Event{Kind: Unregistered, Err: err})
		return 0
	}
	var have atomic.Int64
	key := nodeNote + s.cfg.Node
	err = s.cfg.Finder.Each(ctx, func(_ string, api API) error {
		ctx, cancel := s.bound(ctx)
		defer cancel()
		old, err := api.Note(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			old, err = "", nil
		}
		if err == nil && old != string(text) {
			err = api.SwapNote(ctx, key, old, string(text))
		}
		if err == nil {
			have.Add(1)
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.cfg.Notify(Event{Kind: Unregistered, Err: err})
	}
	return have.Load()
}
