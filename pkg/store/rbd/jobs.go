//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// jobLog keeps the jobs of this member in the catalogue.
type jobLog struct{ s *Store }

// SaveJob writes a job's row.
func (l jobLog) SaveJob(j store.Job) error {
	_, err := l.s.cat.Update(context.Background(), func(t *meta.Tx) error {
		t.PutJob(meta.Job{Job: j, Owner: l.s.o.Member})
		return nil
	})
	return err
}

// DeleteJob forgets a job.
func (l jobLog) DeleteJob(id string) error {
	_, err := l.s.cat.Update(context.Background(), func(t *meta.Tx) error {
		if _, ok := t.Jobs[id]; ok {
			t.DropJob(id)
		}
		return nil
	})
	return err
}

// LoadJobs returns the rows of this member.
func (l jobLog) LoadJobs() ([]store.Job, error) {
	var list []store.Job
	err := l.s.cat.View(context.Background(), func(st *meta.State) error {
		for _, j := range st.Jobs {
			if j.Owner == l.s.o.Member {
				list = append(list, j.Job)
			}
		}
		return nil
	})
	return list, err
}

// Jobs lists the jobs of all members, those of others as they were last written down.
func (s *Store) Jobs(ctx context.Context) ([]store.Job, error) {
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	defer s.end()
	list, err := s.jobs(ctx)
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	return list, nil
}

func (s *Store) jobs(ctx context.Context) ([]store.Job, error) {
	list := s.queue.List()
	err := s.cat.View(ctx, func(st *meta.State) error {
		for _, j := range st.Jobs {
			if j.Owner != s.o.Member {
				list = append(list, j.Job)
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b store.Job) int { return strings.Compare(a.ID, b.ID) })
	return list, err
}

// StartFlatten queues a flatten.
func (s *Store) StartFlatten(ctx context.Context, image store.ID) (store.Job, error) {
	if err := s.begin(ctx); err != nil {
		return store.Job{}, fmt.Errorf("flatten %q: %w", image, err)
	}
	defer s.end()
	job, err := s.startFlatten(ctx, image)
	if err != nil {
		return store.Job{}, fmt.Errorf("flatten %q: %w", image, err)
	}
	return job, nil
}

func (s *Store) startFlatten(ctx context.Context, image store.ID) (store.Job, error) {
	var i meta.Image
	if err := s.cat.View(ctx, func(st *meta.State) error {
		obj, err := st.Find(image, store.KindImage)
		i = obj.Image
		return err
	}); err != nil {
		return store.Job{}, err
	}
	job := jobs.New(store.JobFlatten, string(image), i.Overlap)
	if i.Parent == nil {
		job.State, job.Total, job.Done = store.JobDone, i.Size, i.Size
		return job, nil
	}
	return s.addFlatten(ctx, job)
}

// addFlatten queues a flatten, unless another member has one.
func (s *Store) addFlatten(ctx context.Context, job store.Job) (store.Job, error) {
	var other *store.Job
	if err := s.cat.View(ctx, func(st *meta.State) error {
		for _, j := range st.Jobs {
			if j.Owner != s.o.Member && j.Kind == job.Kind && j.Target == job.Target && j.State != store.JobFailed {
				other = &j.Job
			}
		}
		return nil
	}); err != nil {
		return job, err
	}
	if other != nil {
		return *other, nil
	}
	return s.queue.Add(job)
}

// Flatten cuts the image's clone link and waits for that.
func (s *Store) Flatten(ctx context.Context, image store.ID) error {
	job, err := s.StartFlatten(ctx, image)
	if err != nil || job.State == store.JobDone {
		return err
	}
	if err := s.WatchJob(ctx, job.ID, func(store.Job) error { return nil }); err != nil {
		return fmt.Errorf("flatten %q: %w", image, err)
	}
	return nil
}

// foreignLook is how often the job of another member is looked at.
const foreignLook = 250 * time.Millisecond

// WatchJob calls fn with the job's progress until it ends.
func (s *Store) WatchJob(ctx context.Context, job string, fn func(store.Job) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("watch job %s: %w", job, err)
	}
	if s.closing.Load() {
		return fmt.Errorf("watch job %s: %w", job, store.ErrClosed)
	}
	err := s.queue.Watch(ctx, job, fn)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if mine, e := s.foreign(ctx, job); e != nil || mine == nil {
		return errors.Join(err, e)
	}
	return s.watchForeign(ctx, job, fn)
}

// foreign returns the job of another member, nil if there is none.
func (s *Store) foreign(ctx context.Context, id string) (*store.Job, error) {
	var found *store.Job
	err := s.view(ctx, func(st *meta.State) error {
		if j, ok := st.Jobs[id]; ok && j.Owner != s.o.Member {
			found = &j.Job
		}
		return nil
	})
	return found, err
}

// watchForeign looks at the row of another member's job. One that is gone is taken for
// done.
func (s *Store) watchForeign(ctx context.Context, id string, fn func(store.Job) error) error {
	tick := time.NewTicker(foreignLook)
	defer tick.Stop()
	var last store.Job
	for {
		j, err := s.foreign(ctx, id)
		switch {
		case err != nil:
			return fmt.Errorf("watch job %s: %w", id, err)
		case j == nil:
			last.State = store.JobDone
			return fn(last)
		}
		if *j != last {
			last = *j
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

// PauseJob stops a job of this member until ResumeJob.
func (s *Store) PauseJob(ctx context.Context, job string) error {
	return s.steer(ctx, "pause", job, s.queue.Pause)
}

// ResumeJob lets a job run again.
func (s *Store) ResumeJob(ctx context.Context, job string) error {
	return s.steer(ctx, "resume", job, s.queue.Resume)
}

// CancelJob forgets a job. What nothing needs is collected all the same, with the next
// job for its image.
func (s *Store) CancelJob(ctx context.Context, job string) error {
	return s.steer(ctx, "cancel", job, s.queue.Cancel)
}

func (s *Store) steer(ctx context.Context, op, job string, fn func(string) error) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("%s job %s: %w", op, job, err)
	}
	defer s.end()
	err := fn(job)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var owner string
	if e := s.cat.View(ctx, func(st *meta.State) error { owner = st.Jobs[job].Owner; return nil }); e != nil || owner == "" || owner == s.o.Member {
		return errors.Join(err, e)
	}
	return fmt.Errorf("%s job %s: member %s runs it, ask that one: %w", op, job, owner, store.ErrUnsupported)
}
