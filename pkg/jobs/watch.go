package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// watchEvery is the shortest time between two calls of a watcher.
const watchEvery = 100 * time.Millisecond

// Wait returns when a job has ended: nil when it is done, its error when it has
// failed, store.ErrNotFound when it was cancelled or is unknown, store.ErrClosed when
// the queue closes first, ctx's error when that ends first. A paused job is waited
// for.
func (q *Queue) Wait(ctx context.Context, id string) error {
	return q.Watch(ctx, id, func(store.Job) error { return nil })
}

// Watch calls fn with a job as it is, then at changes, at most every 100 ms, and at
// its end, as done or failed. It returns as Wait does, or with fn's error.
func (q *Queue) Watch(ctx context.Context, id string, fn func(store.Job) error) error {
	e, done, err := q.watched(id)
	if err != nil {
		return err
	}
	if e == nil {
		return fn(done)
	}
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for {
		v := q.look(e)
		if v.cancelled {
			return fmt.Errorf("job %s was cancelled: %w", id, store.ErrNotFound)
		}
		if err := fn(v.job); err != nil {
			return err
		}
		switch v.job.State {
		case store.JobDone:
			return nil
		case store.JobFailed:
			return fmt.Errorf("%s of %s failed: %w", v.job.Kind, v.job.Target, v.err)
		}
		timer.Reset(watchEvery)
		if err := q.nextLook(ctx, e, v, timer); err != nil {
			return err
		}
	}
}

func (q *Queue) watched(id string) (e *entry, done store.Job, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e = q.byID[id]; e != nil {
		return e, done, nil
	}
	done, err = q.finished(id)
	return nil, done, err
}

// view is what a watcher saw.
type view struct {
	job       store.Job
	err       error
	cancelled bool
	changed   <-chan struct{}
}

func (v view) ended() bool {
	return v.cancelled || v.job.State == store.JobDone || v.job.State == store.JobFailed
}

func (q *Queue) look(e *entry) view {
	q.mu.Lock()
	defer q.mu.Unlock()
	return view{job: e.job, err: e.err, cancelled: e.gone && e.job.State != store.JobDone, changed: e.changed}
}

// nextLook returns once the job has changed since v and the timer has run out, or
// the job has ended.
func (q *Queue) nextLook(ctx context.Context, e *entry, v view, timer *time.Timer) error {
	early, changed := true, false
	seen := v.job
	for early || !changed {
		select {
		case <-v.changed:
			v = q.look(e)
			if v.ended() {
				return nil
			}
			changed = v.job != seen
		case <-timer.C:
			early = false
		case <-ctx.Done():
			return fmt.Errorf("watch job %s: %w", seen.ID, context.Cause(ctx))
		case <-q.ctx.Done():
			return fmt.Errorf("watch job %s: %w", seen.ID, store.ErrClosed)
		}
	}
	return nil
}
