package jobs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Lanes in the order of priority.
const (
	laneUrgent = iota
	laneShort
	laneLong
	laneIdle
	laneCount
)

// patience is how often in a row the oldest job may be passed over.
const patience = 8

// Delays before a failed try is repeated; each is twice the one before.
const (
	busyFirst  = 250 * time.Millisecond
	busyMost   = 30 * time.Second
	spaceFirst = 5 * time.Second
	spaceMost  = 5 * time.Minute
)

// lane holds the jobs that wait, in the order of arrival.
type lane []*entry

// Class is how a kind of job shares the queue with others.
type Class int

const (
	// Long jobs take their time; they never have the last slot.
	Long Class = iota
	// Short jobs give space back, or keep others waiting; they come before long ones.
	Short
	// Idle jobs nobody waits for. They run one at a time, in a slot of their own, so
	// that they hold up no other, and have a byte rate of their own.
	Idle
)

// classOf is how kinds are classed where Options.Class says nothing.
func classOf(kind store.JobKind) Class {
	switch kind {
	case store.JobMerge, store.JobDelete:
		return Short
	case store.JobScrub:
		return Idle
	}
	return Long
}

func (q *Queue) laneOf(job store.Job) int {
	switch class := q.class(job.Kind); {
	case job.Urgent:
		return laneUrgent
	case class == Short:
		return laneShort
	case class == Idle:
		return laneIdle
	}
	return laneLong
}

func bySeq(e *entry, seq uint64) int { return cmp.Compare(e.seq, seq) }

// enqueue puts a queued job in its lane, at the place of its arrival.
func (q *Queue) enqueue(e *entry) {
	l := &q.lanes[q.laneOf(e.job)]
	if i, there := slices.BinarySearchFunc(*l, e.seq, bySeq); !there {
		*l = slices.Insert(*l, i, e)
	}
}

// dequeue takes a job out of its lane and tells whether it was there.
func (q *Queue) dequeue(e *entry) bool {
	l := &q.lanes[q.laneOf(e.job)]
	i, there := slices.BinarySearchFunc(*l, e.seq, bySeq)
	if there {
		*l = slices.Delete(*l, i, i+1)
	}
	return there
}

// schedule starts jobs until the queue closes.
func (q *Queue) schedule() {
	defer q.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-q.ctx.Done():
			return
		case <-q.wake:
		case <-timer.C:
		}
		if next := q.startAll(); next > 0 {
			timer.Reset(next)
		}
	}
}

// startAll starts every job that may run now and returns how long it is until the
// next one that waits for its retry; 0 if there is none.
func (q *Queue) startAll() time.Duration {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return 0
		}
		now := time.Now()
		e, in := q.pick(now)
		if e == nil {
			wait := q.nextRetry(now)
			q.mu.Unlock()
			return wait
		}
		q.dequeue(e)
		ctx, stop := context.WithCancel(q.ctx)
		e.stop, e.active, e.job.State, e.job.Error = stop, true, store.JobRunning, ""
		q.targets[e.job.Target] = true
		q.running[in]++
		q.touch(e)
		job := e.job
		q.wg.Add(1)
		q.mu.Unlock()
		q.onEvent(job)
		go q.run(ctx, e, in)
	}
}

// pick finds the job to start and the lane whose slot it takes.
func (q *Queue) pick(now time.Time) (best *entry, in int) {
	var oldest *entry
	oldestLane := 0
	for l := range q.lanes {
		if !q.hasSlot(l) {
			continue
		}
		e := q.lanes[l].first(func(e *entry) bool {
			return !e.notBefore.After(now) && !q.targets[e.job.Target]
		})
		if e == nil {
			continue
		}
		if best == nil {
			best, in = e, l
		}
		if oldest == nil || e.seq < oldest.seq {
			oldest, oldestLane = e, l
		}
	}
	if best == nil {
		return nil, 0
	}
	if best == oldest {
		q.streak = 0
		return best, in
	}
	if q.streak++; q.streak > patience {
		q.streak = 0
		return oldest, oldestLane
	}
	return best, in
}

func (l lane) first(ok func(*entry) bool) *entry {
	for _, e := range l {
		if ok(e) {
			return e
		}
	}
	return nil
}

// hasSlot tells whether a job of that lane may start: long jobs leave a slot to
// short ones, and both leave one to urgent ones. Idle jobs have one of their own.
func (q *Queue) hasSlot(l int) bool {
	if l == laneIdle {
		return q.running[laneIdle] == 0
	}
	long, normal := q.running[laneLong], q.running[laneLong]+q.running[laneShort]
	all := normal + q.running[laneUrgent]
	switch {
	case all > q.workers:
		return false
	case l == laneUrgent:
		return true
	case l == laneShort:
		return normal < q.workers
	}
	return normal < q.workers && long < q.workers-1
}

func (q *Queue) nextRetry(now time.Time) (wait time.Duration) {
	for _, l := range q.lanes {
		for _, e := range l {
			if d := e.notBefore.Sub(now); d > 0 && (wait == 0 || d < wait) {
				wait = d
			}
		}
	}
	return wait
}

func (q *Queue) run(ctx context.Context, e *entry, in int) {
	defer q.wg.Done()
	t := q.newTask(e)
	err := q.runners[e.job.Kind](ctx, t)
	t.end()
	job, changed := q.settle(ctx, e, err)
	q.mu.Lock()
	e.stop()
	e.active, e.stop = false, nil
	delete(q.targets, e.job.Target)
	q.running[in]--
	if !e.gone && e.job.State == store.JobQueued {
		q.enqueue(e)
	}
	q.touch(e)
	q.poke()
	q.mu.Unlock()
	if changed {
		q.onEvent(job)
	}
}

// settle decides what becomes of a job whose run has ended, first in the log, then
// in memory.
func (q *Queue) settle(ctx context.Context, e *entry, err error) (job store.Job, changed bool) {
	e.logMu.Lock()
	defer e.logMu.Unlock()
	q.mu.Lock()
	job, gone, killed := e.job, e.gone, q.killed
	q.mu.Unlock()
	switch {
	case gone || killed:
		return job, false
	case err == nil:
		// Where the row cannot be deleted, the next Open runs the job again, which
		// finds nothing to do; nobody has to wait for that.
		_ = q.log.DeleteJob(job.ID)
		return q.change(e, func() { q.remove(e, true) }), true
	case ctx.Err() != nil:
		return q.stopped(e)
	case errors.Is(err, store.ErrNoSpace):
		return q.retry(e, err, spaceFirst, spaceMost), true
	case errors.Is(err, store.ErrBusy):
		return q.retry(e, err, busyFirst, busyMost), true
	}
	job = q.change(e, func() {
		e.job.State, e.job.Error, e.err = store.JobFailed, err.Error(), err
	})
	// If this fails too, the next Open tries the job again.
	_ = q.save(job)
	return job, true
}

// stopped keeps the progress of a run that was told to stop, as a hint.
func (q *Queue) stopped(e *entry) (store.Job, bool) {
	job := q.change(e, func() {
		if e.job.State == store.JobRunning {
			e.job.State = store.JobQueued
		}
	})
	_ = q.save(job)
	return job, false
}

func (q *Queue) retry(e *entry, err error, first, most time.Duration) store.Job {
	return q.change(e, func() {
		wait := min(first<<min(e.retries, 20), most)
		e.retries++
		e.err, e.notBefore = err, time.Now().Add(wait)
		e.job.Error = err.Error()
		if e.job.State == store.JobRunning {
			e.job.State = store.JobQueued
		}
	})
}

func (q *Queue) change(e *entry, fn func()) store.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	fn()
	return e.job
}
