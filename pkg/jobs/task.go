package jobs

import (
	"context"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// saveEvery is how often progress is written to the log, at most.
const saveEvery = 5 * time.Second

// Task is one run of a job, as its runner sees it. Its methods belong to the
// runner's goroutine.
type Task struct {
	q     *Queue
	e     *entry
	saved time.Time
	work  stretch
}

func (q *Queue) newTask(e *entry) *Task {
	t := &Task{q: q, e: e, saved: time.Now()}
	t.work.begin(q.pacer.load)
	return t
}

// Job is the job as it is. Done and Copied may be a few seconds older than what an
// earlier run reached before a crash.
func (t *Task) Job() store.Job {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	return t.e.job
}

// Progress tells how far the job is: bytes examined, bytes to examine, bytes copied
// by this and earlier runs.
func (t *Task) Progress(done, total, copied int64) {
	t.q.mu.Lock()
	if done > t.e.job.Done {
		t.e.retries = 0 // it gets somewhere
	}
	if more := copied - t.e.job.Copied; more > 0 {
		t.q.copied.Add(more)
	}
	t.e.job.Done, t.e.job.Total, t.e.job.Copied = done, total, copied
	t.q.touch(t.e)
	t.q.mu.Unlock()
	if now := time.Now(); now.Sub(t.saved) >= saveEvery {
		t.saved = now
		t.save()
	}
}

// save writes the progress as a hint; that it could not be written hurts nobody.
func (t *Task) save() {
	t.e.logMu.Lock()
	defer t.e.logMu.Unlock()
	t.q.mu.Lock()
	row, gone := t.e.job, t.e.gone
	t.q.mu.Unlock()
	if gone {
		return
	}
	if row.State == store.JobRunning {
		row.State = store.JobQueued // what it is to the next Open
	}
	_ = t.q.save(row)
}

// Pace waits before the next piece of work, which moves that many bytes: for the
// byte rate of all jobs together and, unless the job is urgent, for the foreground.
// It returns an error when ctx ends, and only then. Pieces of 1 MiB or less keep the
// foreground smooth.
func (t *Task) Pace(ctx context.Context, bytes int) error {
	job := t.Job()
	return t.q.pacer.pace(ctx, &t.work, bytes, t.q.class(job.Kind) == Idle, job.Urgent)
}

func (t *Task) end() { t.work.end(t.q.pacer.load) }
