package layered

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// jobLog keeps the rows of background jobs in the catalogue.
type jobLog struct{ cat *meta.DB }

func (l jobLog) SaveJob(j store.Job) error {
	row, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return l.cat.Update(func(tx *meta.Tx) error { return tx.PutJob(j.ID, row) })
}

func (l jobLog) DeleteJob(id string) error {
	return l.cat.Update(func(tx *meta.Tx) error { return tx.DeleteJob(id) })
}

func (l jobLog) LoadJobs() (list []store.Job, err error) {
	err = l.cat.View(func(tx *meta.Tx) error {
		list, err = l.in(tx)
		return err
	})
	return list, err
}

func (jobLog) in(tx *meta.Tx) (list []store.Job, err error) {
	rows, err := tx.Jobs()
	for _, r := range rows {
		var j store.Job
		if err := json.Unmarshal(r.Row, &j); err != nil {
			return nil, fmt.Errorf("job %s: %v: %w", r.ID, err, store.ErrCorrupt)
		}
		list = append(list, j)
	}
	return list, err
}

// startJobs resumes what the catalogue holds.
func (st *Store) startJobs() error {
	// A resumed job may run before Open returns; it waits until it can queue others.
	ready := make(chan struct{})
	defer close(ready)
	when := func(run jobs.Runner) jobs.Runner {
		return func(ctx context.Context, t *jobs.Task) error {
			<-ready
			return run(ctx, t)
		}
	}
	runners := map[store.JobKind]jobs.Runner{
		store.JobFlatten: when(st.runFlatten),
		store.JobMerge:   when(lasting(st.runMerge)),
		store.JobDelete:  when(lasting(st.runDelete)),
		jobIndex:         when(lasting(st.runIndex)),
		jobSlack:         when(lasting(st.runSlack)),
		jobSums:          when(st.runSums),
		store.JobScrub:   when(st.runScrub),
	}
	queue, err := jobs.Open(jobLog{st.cat}, runners, jobs.Options{
		Workers: st.opts.Workers, BytesPerSecond: st.opts.CopyRate, IdleBytesPerSecond: st.opts.ScrubRate, Class: classOf, Load: st.gauge, OnEvent: st.jobEvent,
	})
	st.jobs = queue
	return err
}

func (st *Store) jobEvent(j store.Job) {
	if j.State == store.JobFailed {
		st.opts.OnEvent(Event{Object: fmt.Sprintf("%s of %s", j.Kind, j.Target), Text: "failed: " + j.Error})
	}
}

func (st *Store) runDelete(_ context.Context, t *jobs.Task) error {
	id, err := layerTarget(t.Job())
	if err != nil {
		return err
	}
	return st.removeFiles(id)
}

func layerTarget(j store.Job) (meta.LayerID, error) {
	id, err := strconv.ParseUint(j.Target, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s job for %q: %w", j.Kind, j.Target, store.ErrInvalid)
	}
	return meta.LayerID(id), nil
}

// Jobs implements store.JobRunner.
func (st *Store) Jobs(context.Context) ([]store.Job, error) {
	if err := st.alive(); err != nil {
		return nil, err
	}
	return st.jobs.List(), nil
}

// WatchJob implements store.JobRunner.
func (st *Store) WatchJob(ctx context.Context, id string, fn func(store.Job) error) error {
	return st.jobs.Watch(ctx, id, fn)
}

// PauseJob implements store.JobRunner.
func (st *Store) PauseJob(_ context.Context, id string) error { return st.jobs.Pause(id) }

// ResumeJob implements store.JobRunner.
func (st *Store) ResumeJob(_ context.Context, id string) error { return st.jobs.Resume(id) }

// CancelJob implements store.JobRunner. A merge or delete gives space back; only a
// failed one may be cancelled, and its space stays until something else changes
// beside it.
func (st *Store) CancelJob(_ context.Context, id string) error {
	j, err := st.jobs.Get(id)
	if err != nil {
		return err
	}
	if j.Kind != store.JobMerge && j.Kind != store.JobDelete {
		return st.jobs.Cancel(id)
	}
	if j.State != store.JobFailed {
		return fmt.Errorf("job %s (%s) gives space back and cannot be cancelled; pause it: %w", id, j.Kind, store.ErrUnsupported)
	}
	if err := st.jobs.Cancel(id); err != nil || j.Kind == store.JobDelete {
		return err
	}
	layer, err := layerTarget(j)
	if err != nil {
		return err
	}
	return st.cat.Update(func(tx *meta.Tx) error {
		l, err := tx.Layer(layer)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		l.Merging = 0
		return tx.PutLayer(l)
	})
}

// lasting makes the errors of a job that gives space back temporary, unless it is
// known that trying again is of no use.
func lasting(run jobs.Runner) jobs.Runner {
	return func(ctx context.Context, t *jobs.Task) error {
		err := run(ctx, t)
		if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrReadOnly) {
			return err
		}
		return fmt.Errorf("%w (%w: it is tried again)", err, store.ErrBusy)
	}
}

// Idle waits until no background job is queued or running.
func (st *Store) Idle(ctx context.Context) error {
	for {
		var busy store.Job
		for _, j := range st.jobs.List() {
			if j.State == store.JobQueued || j.State == store.JobRunning {
				busy = j
				break
			}
		}
		if busy.ID == "" {
			return nil
		}
		_ = st.jobs.Wait(ctx, busy.ID) // a failed job is idle too
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for %+v: %w", busy, err)
		}
	}
}
