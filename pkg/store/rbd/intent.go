//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// undoWithin bounds the writing of what an interrupted change leaves behind.
const undoWithin = 30 * time.Second

// takeBack hands what a failed change has made to the collector. If that cannot be
// written, the intent stays for who opens next.
func (s *Store) takeBack(i meta.Intent) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoWithin)
	defer cancel()
	if err := s.update(ctx, func(t *meta.Tx) error { return s.undo(t, i) }); err != nil {
		return fmt.Errorf("take back what was begun: %w", err)
	}
	return nil
}

// undo turns what an intent has made into garbage.
func (s *Store) undo(t *meta.Tx, i meta.Intent) error {
	if _, mine := t.Intents[i.ID]; !mine {
		return nil
	}
	t.DropIntent(i.ID)
	if image, ok := t.Images[i.Image]; ok && image.Phase == meta.Making {
		image.Phase = meta.Removed
		t.PutImage(image)
		s.queueCollect(t, image.ID)
	}
	if snap, ok := t.Snaps[i.Snapshot]; ok && snap.Phase == meta.Making {
		snap.Phase = meta.Removed
		t.PutSnapshot(snap)
		s.queueCollect(t, snap.Image)
	}
	return nil
}

// working marks an intent as one that a call of this process is busy with, until the
// function returned is called.
func (s *Store) working(id string) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy = map[string]bool{}
	}
	s.busy[id] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, id)
	}
}

// replay takes back or carries on what this member had begun and nobody is busy with:
// when it opens, what its last process left, which is fenced; later, what failed.
func (s *Store) replay(ctx context.Context) error {
	var left []meta.Intent
	if err := s.cat.View(ctx, func(st *meta.State) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, i := range st.Intents {
			if i.Owner == s.o.Member && !s.busy[i.ID] {
				left = append(left, i)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, i := range left {
		if err := s.replayOne(ctx, i); err != nil {
			return fmt.Errorf("%s of %s: %w", i.Op, i.Object, err)
		}
	}
	return nil
}

func (s *Store) replayOne(ctx context.Context, i meta.Intent) error {
	if i.Object != "" {
		unlock, err := s.keys.lock(ctx, "image/"+string(i.Object))
		if err != nil {
			return err
		}
		defer unlock()
	}
	switch i.Op {
	case meta.OpShrink:
		return s.shrink(ctx, i)
	case meta.OpRevert:
		return s.rollBack(ctx, i, true)
	case meta.OpAdopt:
		return s.unadopt(ctx, i)
	}
	return s.update(ctx, func(t *meta.Tx) error { return s.undo(t, i) })
}

// strays queues the collection of what nothing needs and no job is for: a job may have
// been cancelled.
func (s *Store) strays(ctx context.Context) error {
	return s.update(ctx, func(t *meta.Tx) error {
		due := map[store.ID]bool{}
		for id := range t.Images {
			due[id] = !t.Garbage(id).Nothing()
		}
		for _, j := range t.Jobs {
			if j.Kind == store.JobDelete {
				delete(due, store.ID(j.Target))
			}
		}
		for id, yes := range due {
			if yes {
				s.queueCollect(t, id)
			}
		}
		return nil
	})
}

// errTaken: another gateway is changing the image.
var errTaken = errors.New("another gateway is changing the image")

const (
	takenWait = 30 * time.Second
	takenLook = 100 * time.Millisecond
)

// exclusive commits a change that must not meet another gateway's on the same image; fn
// answers errTaken while there is one.
func (s *Store) exclusive(ctx context.Context, fn func(*meta.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, takenWait)
	defer cancel()
	tick := time.NewTicker(takenLook)
	defer tick.Stop()
	for {
		err := s.update(ctx, fn)
		if !errors.Is(err, errTaken) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, store.ErrBusy)
		}
	}
}

// take refuses an image that another change has.
func take(t *meta.Tx, image store.ID) error {
	if i, busy := t.Taken(image); busy {
		return fmt.Errorf("%s by member %s: %w", i.Op, i.Owner, errTaken)
	}
	return nil
}

// queueCollect queues the collection of what nothing needs of an image.
func (s *Store) queueCollect(t *meta.Tx, image store.ID) {
	if _, ok := t.Images[image]; ok {
		t.AddJob(jobs.New(store.JobDelete, string(image), 0), s.o.Member)
	}
}

// queueFlatten queues a flatten.
func (s *Store) queueFlatten(t *meta.Tx, image store.ID) {
	if !t.Flattening(image) {
		t.AddJob(jobs.New(store.JobFlatten, string(image), t.Images[image].Size), s.o.Member)
	}
}
