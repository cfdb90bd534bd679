package jobs

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Log is where jobs survive a crash. Each method is durable when it returns. The
// methods are called concurrently for different jobs.
type Log interface {
	// SaveJob writes a job's row, new or not.
	SaveJob(store.Job) error
	// DeleteJob forgets a job; one that is not there is no error.
	DeleteJob(id string) error
	// LoadJobs returns all rows.
	LoadJobs() ([]store.Job, error)
}

// Runner does one job. It returns nil when the job is complete, and an error soon
// after ctx has ended, which it does at Pause, Cancel, Close and Kill; the job is
// then run again, if at all, from its beginning as far as the queue knows. An error
// that is store.ErrBusy or store.ErrNoSpace is retried with growing delays, any
// other fails the job.
type Runner func(ctx context.Context, t *Task) error

// Options of Open.
type Options struct {
	// Workers is how many jobs run at once; 0 means 2, which is also the least. Long
	// jobs leave one of them to short ones; one more exists for urgent jobs, and one for
	// idle ones.
	Workers int
	// BytesPerSecond limits all jobs together, IdleBytesPerSecond those of class Idle
	// beyond that; 0 means no limit.
	BytesPerSecond, IdleBytesPerSecond int64
	// Class classes kinds of job; nil means that merges and deletes are short, scrubs
	// idle and all others long.
	Class func(store.JobKind) Class
	// Load makes jobs that are not urgent yield to the foreground; nil if not.
	Load *Load
	// OnEvent is told of every change of state, in no lock, concurrently. It must
	// not wait.
	OnEvent func(store.Job)
}

// Queue runs jobs. All methods may be called concurrently.
type Queue struct {
	log     Log
	runners map[store.JobKind]Runner
	workers int
	onEvent func(store.Job)
	class   func(store.JobKind) Class
	pacer   *pacer
	copied  atomic.Int64

	ctx    context.Context // parent of every run
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1: the scheduler has something to look at
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	killed  bool
	byID    map[string]*entry
	byKey   map[key]*entry // the newest job of a kind and target
	lanes   [laneCount]lane
	seq     uint64
	targets map[string]bool // targets of running jobs
	running [laneCount]int
	streak  int // picks in a row that passed over the oldest job
	recent  []store.Job
}

type key struct {
	kind   store.JobKind
	target string
}

// entry is one job that is not done.
type entry struct {
	// logMu is held over every write of the row, so that none overtakes another. It
	// is taken before Queue.mu.
	logMu sync.Mutex

	// Guarded by Queue.mu.
	job       store.Job
	seq       uint64
	err       error // of the last run
	gone      bool  // done or cancelled: the row must not come back
	stop      context.CancelFunc
	active    bool // a run has not ended
	retries   int
	notBefore time.Time
	changed   chan struct{} // closed and replaced at every change
}

func (e *entry) key() key { return key{e.job.Kind, e.job.Target} }

// remembered is how many finished jobs Get, Wait and Watch still know.
const remembered = 256

// Open loads the jobs of the log and goes on with them. Rows of a kind without a
// runner are kept, as failed; of several rows with one kind and target the oldest
// that has not failed stays.
func Open(log Log, runners map[store.JobKind]Runner, o Options) (*Queue, error) {
	rows, err := log.LoadJobs()
	if err != nil {
		return nil, fmt.Errorf("load background jobs: %w", err)
	}
	slices.SortStableFunc(rows, func(a, b store.Job) int { return cmp.Compare(a.ID, b.ID) })
	ctx, cancel := context.WithCancel(context.Background())
	q := &Queue{
		log: log, runners: runners, workers: max(2, o.Workers), onEvent: o.OnEvent,
		pacer: newPacer(o.BytesPerSecond, o.IdleBytesPerSecond, o.Load), class: o.Class, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1),
		byID: map[string]*entry{}, byKey: map[key]*entry{}, targets: map[string]bool{},
	}
	if q.class == nil {
		q.class = classOf
	}
	if q.onEvent == nil {
		q.onEvent = func(store.Job) {}
	}
	for _, row := range rows {
		if err := q.load(row); err != nil {
			cancel()
			return nil, fmt.Errorf("load background jobs: %w", err)
		}
	}
	q.wg.Add(1)
	go q.schedule()
	return q, nil
}

func (q *Queue) load(row store.Job) error {
	if old := q.byKey[key{row.Kind, row.Target}]; old != nil && old.job.State != store.JobFailed {
		q.raise(old, row.Urgent)
		return q.log.DeleteJob(row.ID)
	} else if old != nil {
		q.remove(old, false)
		if err := q.log.DeleteJob(old.job.ID); err != nil {
			return err
		}
	}
	e := q.insert(row)
	switch {
	case q.runners[row.Kind] == nil:
		e.job.State = store.JobFailed
		e.err = fmt.Errorf("this version knows no job of kind %q: %w", row.Kind, store.ErrUnsupported)
		e.job.Error = e.err.Error()
	case row.State == store.JobFailed:
		e.err = errors.New(row.Error)
	case row.State != store.JobPaused:
		e.job.State, e.job.Error = store.JobQueued, ""
		q.enqueue(e)
	}
	return nil
}

// New builds the row of a queued job with a fresh id. Ids sort by time of creation,
// to the microsecond. total is in bytes, 0 if unknown.
func New(kind store.JobKind, target string, total int64) store.Job {
	var b [4]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	id := fmt.Sprintf("%014x-%s", time.Now().UnixMicro(), hex.EncodeToString(b[:]))
	return store.Job{ID: id, Kind: kind, Target: target, State: store.JobQueued, Total: total}
}

// Add queues a job, durably, and returns it. If one of its kind and target is there
// already, that one is returned: made urgent if the new one is, and tried again if
// it had failed or waits to be retried. A paused one stays paused.
func (q *Queue) Add(job store.Job) (store.Job, error) {
	if err := q.acceptable(job); err != nil {
		return job, err
	}
	defer q.wg.Done()
	if old := q.find(job); old != nil {
		if known, ok, err := q.reuse(old, job.Urgent); ok || err != nil {
			return known, err
		}
	}
	job.State = store.JobQueued
	if err := q.log.SaveJob(job); err != nil {
		return job, fmt.Errorf("queue %s of %s: %w", job.Kind, job.Target, err)
	}
	return q.adopt(job, true), nil
}

// acceptable checks a new job; on nil the caller owes a q.wg.Done.
func (q *Queue) acceptable(job store.Job) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return fmt.Errorf("queue %s of %s: %w", job.Kind, job.Target, store.ErrClosed)
	case q.runners[job.Kind] == nil:
		return fmt.Errorf("queue %s of %s: no such kind of job: %w", job.Kind, job.Target, store.ErrUnsupported)
	case job.ID == "" || job.Target == "" || q.byID[job.ID] != nil:
		return fmt.Errorf("queue %s of %q: id %q is empty or known, or there is no target: %w", job.Kind, job.Target, job.ID, store.ErrInvalid)
	}
	// The scheduler's own count keeps the group above zero while not closed.
	q.wg.Add(1)
	return nil
}

func (q *Queue) find(job store.Job) *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.byKey[key{job.Kind, job.Target}]
}

// reuse answers an Add with a job that is there already; ok is false if it ended
// meanwhile.
func (q *Queue) reuse(e *entry, urgent bool) (job store.Job, ok bool, err error) {
	e.logMu.Lock()
	defer e.logMu.Unlock()
	q.mu.Lock()
	row, gone := e.job, e.gone
	q.mu.Unlock()
	if gone {
		return row, false, nil
	}
	failed := row.State == store.JobFailed
	if failed {
		row.State, row.Error = store.JobQueued, ""
	}
	if failed || urgent && !row.Urgent {
		row.Urgent = row.Urgent || urgent
		if err := q.save(row); err != nil {
			return row, false, fmt.Errorf("queue %s of %s again: %w", row.Kind, row.Target, err)
		}
	}
	q.mu.Lock()
	q.raise(e, urgent)
	if e.job.State == store.JobFailed || e.job.State == store.JobQueued {
		q.again(e)
	}
	row = e.job
	q.mu.Unlock()
	return row, true, nil
}

// again makes a failed or waiting job runnable at once.
func (q *Queue) again(e *entry) {
	e.job.State, e.job.Error = store.JobQueued, ""
	e.err, e.retries, e.notBefore = nil, 0, time.Time{}
	if !e.active {
		q.enqueue(e)
	}
	q.touch(e)
	q.poke()
}

// raise makes a job urgent.
func (q *Queue) raise(e *entry, urgent bool) {
	if !urgent || e.job.Urgent {
		return
	}
	queued := q.dequeue(e)
	e.job.Urgent = true
	if queued {
		q.enqueue(e)
	}
}

// Adopt queues a job whose row the caller has written to the log already, in a
// transaction of its own. Call it after the commit; a crash before is made good by
// Open. If one of its kind and target waits already, the new row is dropped and
// that one returned; if one is running, the new one comes after it; one that has
// failed is replaced. Adopting into a closed queue does nothing.
func (q *Queue) Adopt(job store.Job) store.Job { return q.adopt(job, false) }

func (q *Queue) adopt(job store.Job, sameIfRunning bool) store.Job {
	q.mu.Lock()
	if q.closed || q.byID[job.ID] != nil {
		q.mu.Unlock()
		return job
	}
	q.wg.Add(1)
	defer q.wg.Done()
	old := q.byKey[key{job.Kind, job.Target}]
	failed := old != nil && old.job.State == store.JobFailed
	if old != nil && !failed && (sameIfRunning || !old.active) {
		q.raise(old, job.Urgent)
		known := old.job
		q.poke()
		q.mu.Unlock()
		// If this fails the row is dropped by the next Open.
		_ = q.log.DeleteJob(job.ID)
		return known
	}
	if failed {
		q.remove(old, false)
	}
	e := q.insert(job)
	e.job.State = store.JobQueued
	q.enqueue(e)
	job = e.job
	q.poke()
	q.mu.Unlock()
	if failed {
		old.logMu.Lock()
		defer old.logMu.Unlock()
		_ = q.log.DeleteJob(old.job.ID) // as above
	}
	q.onEvent(job)
	return job
}

func (q *Queue) insert(job store.Job) *entry {
	q.seq++
	e := &entry{job: job, seq: q.seq, changed: make(chan struct{})}
	q.byID[job.ID] = e
	q.byKey[e.key()] = e
	return e
}

// remove forgets an entry; finished ones are remembered for a while.
func (q *Queue) remove(e *entry, done bool) {
	e.gone = true
	q.dequeue(e)
	delete(q.byID, e.job.ID)
	if q.byKey[e.key()] == e {
		delete(q.byKey, e.key())
	}
	if done {
		e.job.State, e.job.Error = store.JobDone, ""
		q.recent = append(q.recent, e.job)
		if len(q.recent) > remembered {
			q.recent = slices.Delete(q.recent, 0, len(q.recent)-remembered)
		}
	}
	q.touch(e)
}

// touch wakes those who watch a job.
func (q *Queue) touch(e *entry) {
	close(e.changed)
	e.changed = make(chan struct{})
}

// poke makes the scheduler look again.
func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// save writes a row, unless the queue was killed. The entry's logMu is held.
func (q *Queue) save(row store.Job) error {
	if q.isKilled() {
		return fmt.Errorf("job %s: %w", row.ID, store.ErrClosed)
	}
	return q.log.SaveJob(row)
}

func (q *Queue) isKilled() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.killed
}

// Close stops all runs, waits for them and keeps all rows for the next Open. Those
// who wait for a job get store.ErrClosed. Repeating it is no error.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cancel()
	q.wg.Wait()
	return nil
}

// Kill is Close as a crash would do it: nothing is written from now on.
func (q *Queue) Kill() {
	q.mu.Lock()
	q.killed = true
	q.mu.Unlock()
	_ = q.Close()
}
