//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// bulk keeps apart what copies or deletes objects of one image in bulk, and stops a
// flatten that is in the way. The zero value is ready.
type bulk struct {
	mu      sync.Mutex
	running map[store.ID]context.CancelFunc
}

// run takes an image for a flatten; the context ends when that is to stop.
func (b *bulk) run(ctx context.Context, keys *keyLocks, id store.ID) (context.Context, func(), error) {
	unlock, err := keys.lock(ctx, "bulk/"+string(id))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	if b.running == nil {
		b.running = map[store.ID]context.CancelFunc{}
	}
	b.running[id] = cancel
	b.mu.Unlock()
	return ctx, func() {
		b.mu.Lock()
		delete(b.running, id)
		b.mu.Unlock()
		cancel()
		unlock()
	}, nil
}

// cancel tells a flatten to stop, without waiting for that.
func (b *bulk) cancel(id store.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if stop := b.running[id]; stop != nil {
		stop()
	}
}

// stop takes an image for something else, once a flatten has stopped.
func (b *bulk) stop(ctx context.Context, keys *keyLocks, id store.ID) (func(), error) {
	b.cancel(id)
	return keys.lock(ctx, "bulk/"+string(id))
}

// runFlatten is the job that cuts a clone link. The library copies what the image does
// not have, object by object; told to stop it keeps what is copied, and the next run
// passes over that quickly.
func (s *Store) runFlatten(ctx context.Context, t *jobs.Task) error {
	id := store.ID(t.Job().Target)
	run, done, err := s.bulk.run(ctx, &s.keys, id)
	if err != nil {
		return err
	}
	defer done()
	due := false
	if err := s.cat.View(ctx, func(st *meta.State) error {
		i, ok := st.Images[id]
		due = ok && i.Parent != nil && !st.Garbage(id).Whole
		if _, busy := st.Taken(id); busy && due {
			return fmt.Errorf("another change of %s is under way: %w", i.Name, store.ErrBusy)
		}
		return nil
	}); err != nil || !due {
		return err
	}
	h, err := s.holdImage(ctx, id)
	if err != nil {
		return classify(err)
	}
	given := false
	if err = h.enter(); err == nil {
		if given, err = s.handOver(ctx, t, h); err == nil && !given {
			err = s.flattenHandle(run, t, h)
		}
		h.leave()
	}
	if err = errors.Join(err, s.drop(h, false)); err != nil {
		if run.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("flatten made way for another change: %w: %w", err, store.ErrBusy)
		}
		return classify(err)
	}
	if given {
		return nil
	}
	failpoint.Hit("rbd.flatten.made")
	if err := s.update(context.WithoutCancel(ctx), func(t *meta.Tx) error { t.Cut(id); return nil }); err != nil {
		return err
	}
	failpoint.Hit("rbd.flatten.cut")
	return s.follow(context.WithoutCancel(ctx), id)
}

// progressEvery is how often the progress of a flatten is told.
const progressEvery = 200 * time.Millisecond

// flattenHandle flattens an image that is open, unless it is flat already because an
// earlier run ended between the library's answer and its commit.
func (s *Store) flattenHandle(ctx context.Context, t *jobs.Task, h *handle) error {
	if _, err := h.img.GetParent(); gone(err) {
		return nil
	}
	total := h.obj.Image.Overlap
	if err := s.confirm(ctx, h); err != nil {
		return fmt.Errorf("look for the image's own objects: %w", err)
	}
	inherited, err := h.inherited(total)
	if err != nil {
		return fmt.Errorf("look at what is inherited: %w", err)
	}
	before := t.Job().Copied
	var part atomic.Uint64 // of 1 << 20; a thread of the library writes it and must not wait
	ended := make(chan error, 1)
	go func() {
		ended <- h.img.FlattenWithProgress(func(object, objects uint64, _ any) int {
			if ctx.Err() != nil {
				return -int(syscall.ECANCELED)
			}
			part.Store(object << 20 / max(objects, 1))
			return 0
		}, nil)
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		share := float64(part.Load()) / (1 << 20)
		select {
		case err := <-ended:
			if err != nil {
				t.Progress(int64(share*float64(total)), total, before+int64(share*float64(inherited)))
				return fmt.Errorf("flatten %s: %w", h.obj.Image.Name, err)
			}
			t.Progress(total, total, before+inherited)
			return nil
		case <-tick.C:
			t.Progress(int64(share*float64(total)), total, before+int64(share*float64(inherited)))
		}
	}
}

// inherited is how many bytes of objects a flatten would copy.
func (h *handle) inherited(overlap int64) (int64, error) {
	if overlap == 0 {
		return 0, nil
	}
	all, err := h.spans(librbd.NoSnapshot, 0, overlap, true)
	if err != nil {
		return 0, err
	}
	own, err := h.spans(librbd.NoSnapshot, 0, overlap, false)
	if err != nil {
		return 0, err
	}
	return max(0, sum(all)-sum(own)), nil
}
