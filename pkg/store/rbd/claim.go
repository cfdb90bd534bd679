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

// errHanded: another member has the job now.
var errHanded = errors.New("another member has the job")

// handOver gives a flatten to the member that holds the image's lock, if that is another
// one: the library would have the holder do it anyway, but could not be told to stop.
func (s *Store) handOver(ctx context.Context, t *jobs.Task, h *handle) (bool, error) {
	owners, err := h.img.LockGetOwners()
	if err != nil || len(owners) == 0 {
		return false, nil // nobody: this member will take it
	}
	given := false
	_, err = s.cat.Update(ctx, func(tx *meta.Tx) error {
		given = false
		j, ok := tx.Jobs[t.Job().ID]
		for _, m := range tx.Members {
			if ok && m.Name != s.o.Member && !m.Clean && addressed(m, owners[0].Owner) {
				j.Owner, given = m.Name, true
				tx.PutJob(j)
			}
		}
		return nil
	})
	return given, err
}

// syncJobs makes the queue agree with the rows of this member's jobs: it takes those that
// were handed over, and does what others ask of them.
func (s *Store) syncJobs(ctx context.Context) error {
	mine := s.queue.List() // before the rows: who has none then was cancelled
	rows := map[string]store.Job{}
	if err := s.cat.View(ctx, func(st *meta.State) error {
		for id, j := range st.Jobs {
			if j.Owner == s.o.Member {
				rows[id] = j.Job
			}
		}
		return nil
	}); err != nil {
		return err
	}
	var all error
	for _, j := range mine {
		row, ok := rows[j.ID]
		delete(rows, j.ID)
		var err error
		switch {
		case !ok:
			err = s.queue.Cancel(j.ID)
		case row.State == store.JobPaused && j.State != store.JobPaused:
			err = s.queue.Pause(j.ID)
		case row.State == store.JobQueued && j.State == store.JobPaused:
			err = s.queue.Resume(j.ID)
		}
		if !errors.Is(err, store.ErrNotFound) {
			all = errors.Join(all, err)
		}
	}
	for id, j := range rows {
		if _, err := s.queue.Get(id); errors.Is(err, store.ErrNotFound) {
			s.queue.Adopt(j)
			if j.State == store.JobPaused {
				all = errors.Join(all, s.queue.Pause(id))
			}
		}
	}
	return all
}

// foreignLook is how often the job of another member is looked at.
const foreignLook = 250 * time.Millisecond

// foreign returns the job of another member, nil if there is none.
func (s *Store) foreign(ctx context.Context, id string) (*store.Job, error) {
	j, err := s.row(ctx, id)
	if j == nil || j.Owner == s.o.Member {
		return nil, err
	}
	return &j.Job, err
}

// row returns the row of a job, nil if there is none.
func (s *Store) row(ctx context.Context, id string) (*meta.Job, error) {
	var found *meta.Job
	err := s.view(ctx, func(st *meta.State) error {
		if j, ok := st.Jobs[id]; ok {
			found = &j
		}
		return nil
	})
	return found, err
}

// watchForeign looks at the row of another member's job. One that is gone is taken for
// done; one that has become this member's is errHanded.
func (s *Store) watchForeign(ctx context.Context, id string, fn func(store.Job) error) error {
	tick := time.NewTicker(foreignLook)
	defer tick.Stop()
	var last store.Job
	for {
		j, err := s.row(ctx, id)
		switch {
		case err != nil:
			return fmt.Errorf("watch job %s: %w", id, err)
		case j == nil:
			last.State = store.JobDone
			return fn(last)
		case j.Owner == s.o.Member:
			return errHanded
		}
		if j.Job != last {
			last = j.Job
			if err := fn(last); err != nil {
				return err
			}
		}
		if last.State == store.JobFailed {
			return fmt.Errorf("%s of %s failed: %s", last.Kind, last.Target, last.Error)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("watch job %s: %w", id, context.Cause(ctx))
		}
	}
}
