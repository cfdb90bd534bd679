//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// followEvery is how often a member looks for cuts that others have made, and for
// changes of its own that failed halfway. A lease has leaseParts such looks at least.
const (
	followEvery = time.Second
	leaseParts  = 6
)

// follower looks for what is to be done until the store closes.
func (s *Store) follower() {
	defer s.wg.Done()
	tick := time.NewTicker(min(followEvery, s.o.Lease/leaseParts))
	defer tick.Stop()
	part := s.o.Lease / leaseParts
	next, held := time.Now().Add(part), time.Now().Add(s.o.Lease)
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		// What fails is tried again at the next look.
		ctx := context.Background()
		_ = s.outside(ctx, false)
		_ = s.follow(ctx, "")
		_ = s.replay(ctx)
		_ = s.syncJobs(ctx)
		if now := time.Now(); now.After(next) {
			next = now.Add(part)
			_ = s.lease(false)
			_ = s.sweep(ctx)
		}
		if now := time.Now(); now.After(held) {
			held = now.Add(s.o.Lease)
			_ = s.letGo(ctx)
			_ = s.outside(ctx, true)
		}
	}
}

// follow opens anew what this member has open below an image that was flattened, and
// says so; then what was its parent may go. made is the image whose flatten this process
// has just ended: its own handle knows.
func (s *Store) follow(ctx context.Context, made store.ID) error {
	unlock, err := s.keys.lock(ctx, "follow")
	if err != nil {
		return err
	}
	defer unlock()
	var cuts []meta.Cut
	if err := s.cat.View(ctx, func(st *meta.State) error { cuts = st.CutsFor(s.o.Member); return nil }); err != nil {
		return err
	}
	if len(cuts) == 0 {
		return nil
	}
	for _, c := range cuts {
		if err := s.followOne(ctx, c, made); err != nil {
			return err
		}
		if err := s.update(ctx, func(t *meta.Tx) error {
			if parent := t.Seen(c.ID, s.o.Member); parent != "" {
				s.queueCollect(t, parent)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) followOne(ctx context.Context, c meta.Cut, made store.ID) error {
	below := func(id store.ID) (yes bool) {
		_ = s.cat.Peek(func(st *meta.State) error { yes = st.Below(id, c.Image); return nil })
		return yes
	}
	// Who is opening an image has read its header, perhaps too early.
	if err := s.opening.wait(ctx, below); err != nil {
		return err
	}
	for _, h := range s.handles.all() {
		if !below(h.obj.Image.ID) || h.obj.Snap == nil && h.obj.Image.ID == made {
			continue
		}
		if err := s.reopen(h); err != nil {
			return fmt.Errorf("open %s anew: %w", h.obj.Ref(), classify(err))
		}
	}
	return nil
}

// reopen gives a handle the image as it is now. I/O waits meanwhile; a flatten of it is
// told to stop and goes on later.
func (s *Store) reopen(h *handle) error {
	s.bulk.cancel(h.obj.Image.ID)
	h.gate.Lock()
	defer h.gate.Unlock()
	if h.dead != nil {
		return nil
	}
	old, watch := h.img, h.watch
	if err := s.fill(h); err != nil {
		return err
	}
	var err error
	if watch != nil {
		err = watch.Unwatch()
	}
	return errors.Join(err, old.Close())
}
