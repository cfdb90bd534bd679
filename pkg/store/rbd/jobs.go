//go:build ceph

package rbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// jobLog keeps the jobs of this member in the catalogue.
type jobLog struct{ s *Store }

// SaveJob writes a job's row, unless it is another member's by now.
func (l jobLog) SaveJob(j store.Job) error {
	_, err := l.s.cat.Update(context.Background(), func(t *meta.Tx) error {
		if old, ok := t.Jobs[j.ID]; ok && old.Owner != l.s.o.Member {
			return nil
		}
		t.PutJob(meta.Job{Job: j, Owner: l.s.o.Member})
		return nil
	})
	return err
}

// DeleteJob forgets a job, unless it is another member's by now.
func (l jobLog) DeleteJob(id string) error {
	_, err := l.s.cat.Update(context.Background(), func(t *meta.Tx) error {
		if j, ok := t.Jobs[id]; ok && j.Owner == l.s.o.Member {
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
		if err == nil && st.Fixed(image) {
			return fmt.Errorf("it was made without deep-flatten, so its snapshots and what was cloned from it keep the clone link; remove them first, or flatten a clone of it: %w", store.ErrUnsupported)
		}
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

// WatchJob calls fn with the job's progress until it ends, whichever member has it.
func (s *Store) WatchJob(ctx context.Context, job string, fn func(store.Job) error) error {
	err := ctx.Err()
	if err == nil && s.closing.Load() {
		err = store.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("watch job %s: %w", job, err)
	}
	for {
		err := s.queue.Watch(ctx, job, func(j store.Job) error {
			if j.State == store.JobDone {
				if f, err := s.foreign(ctx, job); err != nil || f != nil {
					return cmp.Or(err, errHanded)
				}
			}
			return fn(j)
		})
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, errHanded) {
			return err
		}
		if f, e := s.foreign(ctx, job); e != nil || f == nil {
			return errors.Join(err, e)
		}
		if err = s.watchForeign(ctx, job, fn); !errors.Is(err, errHanded) {
			return err
		}
		if err := s.syncJobs(ctx); err != nil {
			return fmt.Errorf("watch job %s: %w", job, err)
		}
	}
}

// PauseJob keeps a job from running. One of another member stops when that one next
// looks.
func (s *Store) PauseJob(ctx context.Context, job string) error {
	return s.steer(ctx, "pause", job, s.queue.Pause, func(t *meta.Tx, j meta.Job) {
		j.State = store.JobPaused
		t.PutJob(j)
	})
}

// ResumeJob lets a job run again.
func (s *Store) ResumeJob(ctx context.Context, job string) error {
	return s.steer(ctx, "resume", job, s.queue.Resume, func(t *meta.Tx, j meta.Job) {
		j.State = store.JobQueued
		t.PutJob(j)
	})
}

// CancelJob forgets a job. What nothing needs is collected all the same, with the next
// job for its image.
func (s *Store) CancelJob(ctx context.Context, job string) error {
	return s.steer(ctx, "cancel", job, s.queue.Cancel, func(t *meta.Tx, j meta.Job) { t.DropJob(j.ID) })
}

// steer acts on a job of this member's, or on the row of another's.
func (s *Store) steer(ctx context.Context, op, job string, own func(string) error, foreign func(*meta.Tx, meta.Job)) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("%s job %s: %w", op, job, err)
	}
	defer s.end()
	err := own(job)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if e := s.update(ctx, func(t *meta.Tx) error {
		j, ok := t.Jobs[job]
		if !ok || j.Owner == s.o.Member {
			return err
		}
		foreign(t, j)
		return nil
	}); e != nil {
		return fmt.Errorf("%s job %s: %w", op, job, e)
	}
	return nil
}
