package jobs

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Get returns one job. A job that is done is known for a while; one that was
// cancelled is store.ErrNotFound.
func (q *Queue) Get(id string) (store.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.byID[id]; e != nil {
		return e.job, nil
	}
	return q.finished(id)
}

func (q *Queue) finished(id string) (store.Job, error) {
	if i := slices.IndexFunc(q.recent, func(j store.Job) bool { return j.ID == id }); i >= 0 {
		return q.recent[i], nil
	}
	return store.Job{}, fmt.Errorf("job %s: %w", id, store.ErrNotFound)
}

// List returns all jobs that are not done, oldest first.
func (q *Queue) List() []store.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	entries := make([]*entry, 0, len(q.byID))
	for _, e := range q.byID {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	out := make([]store.Job, len(entries))
	for i, e := range entries {
		out[i] = e.job
	}
	return out
}

// Find returns the newest job of a kind and target that is not done. It may be
// paused or failed: look at its State before you rely on it.
func (q *Queue) Find(kind store.JobKind, target string) (store.Job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.byKey[key{kind, target}]; e != nil {
		return e.job, true
	}
	return store.Job{}, false
}

// Copied is how many bytes all jobs copied since Open.
func (q *Queue) Copied() int64 { return q.copied.Load() }

// SetRate changes the limit of all jobs together, in bytes per second; 0 means none.
func (q *Queue) SetRate(bytesPerSecond int64) { setRate(q.pacer.limit, bytesPerSecond) }

// Pause keeps a queued or running job from running, also after a restart. It does
// not wait until a run has stopped. Pausing a paused job is no error; a failed one is
// store.ErrInvalid.
func (q *Queue) Pause(id string) error {
	return q.steer("pause", id, func(row *store.Job) error {
		if row.State == store.JobFailed {
			return fmt.Errorf("it has failed (%s), so it does not run: %w", row.Error, store.ErrInvalid)
		}
		row.State = store.JobPaused
		return nil
	}, func(e *entry) {
		q.dequeue(e)
		e.job.State = store.JobPaused
		if e.stop != nil {
			e.stop()
		}
	})
}

// Resume lets a paused job run, and a failed one, or one that waits for its next
// try, try again now. It is no error if the job runs already.
func (q *Queue) Resume(id string) error {
	return q.steer("resume", id, func(row *store.Job) error {
		if q.runners[row.Kind] == nil {
			return fmt.Errorf("no such kind of job: %w", store.ErrUnsupported)
		}
		if row.State != store.JobRunning {
			row.State, row.Error = store.JobQueued, ""
		}
		return nil
	}, func(e *entry) {
		if e.job.State != store.JobRunning {
			q.again(e)
		}
	})
}

// Cancel forgets a job. It does not wait until a run has stopped; what that has done
// stays done.
func (q *Queue) Cancel(id string) error {
	e, err := q.entry("cancel", id)
	if err != nil {
		return err
	}
	defer q.wg.Done()
	e.logMu.Lock()
	defer e.logMu.Unlock()
	if q.isGone(e) {
		return fmt.Errorf("cancel job %s: %w", id, store.ErrNotFound)
	}
	if err := q.log.DeleteJob(id); err != nil {
		return fmt.Errorf("cancel job %s: %w", id, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove(e, false)
	if e.stop != nil {
		e.stop()
	}
	return nil
}

// steer changes a job's state: plan the row, write it, apply it.
func (q *Queue) steer(op, id string, plan func(*store.Job) error, apply func(*entry)) error {
	e, err := q.entry(op, id)
	if err != nil {
		return err
	}
	defer q.wg.Done()
	e.logMu.Lock()
	defer e.logMu.Unlock()
	q.mu.Lock()
	row, gone := e.job, e.gone
	q.mu.Unlock()
	if gone {
		return fmt.Errorf("%s job %s: %w", op, id, store.ErrNotFound)
	}
	before := row
	if err := plan(&row); err != nil {
		return fmt.Errorf("%s job %s: %w", op, id, err)
	}
	if row != before {
		if err := q.save(row); err != nil {
			return fmt.Errorf("%s job %s: %w", op, id, err)
		}
	}
	q.mu.Lock()
	apply(e)
	job := e.job
	q.touch(e)
	q.poke()
	q.mu.Unlock()
	if row != before {
		q.onEvent(job)
	}
	return nil
}

// isGone tells whether a job has ended.
func (q *Queue) isGone(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.gone
}

// entry finds a job to change; on nil error the caller owes a q.wg.Done.
func (q *Queue) entry(op, id string) (*entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, fmt.Errorf("%s job %s: %w", op, id, store.ErrClosed)
	}
	e := q.byID[id]
	if e == nil {
		return nil, fmt.Errorf("%s job %s: %w", op, id, store.ErrNotFound)
	}
	q.wg.Add(1)
	return e, nil
}
