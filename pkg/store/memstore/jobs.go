package memstore

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// remembered is how many finished jobs WatchJob still knows.
const remembered = 256

// finish records a flatten that is done.
func (d *disk) finish(f *family, copied int64) store.Job {
	size := int64(0)
	if f.image != nil {
		size = f.image.size
	}
	job := store.Job{
		ID: string(store.NewID()), Kind: store.JobFlatten, Target: string(f.id),
		State: store.JobDone, Done: size, Total: size, Copied: copied,
	}
	d.copied += copied
	if len(d.done) >= remembered {
		d.done = d.done[1:]
	}
	d.done = append(d.done, job)
	return job
}

// Jobs is always empty: every job is done when it is made.
func (s *Store) Jobs(ctx context.Context) ([]store.Job, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	d.mu.Unlock()
	return nil, nil
}

// StartFlatten flattens the image and returns the finished job.
func (s *Store) StartFlatten(ctx context.Context, image store.ID) (store.Job, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return store.Job{}, fmt.Errorf("flatten %q: %w", image, err)
	}
	defer d.mu.Unlock()
	o, err := d.find(image, store.KindImage)
	if err != nil {
		return store.Job{}, fmt.Errorf("flatten: %w", err)
	}
	return d.finish(o.fam, d.flatten(o.fam)), nil
}

// WatchJob calls fn once with the finished job.
func (s *Store) WatchJob(ctx context.Context, job string, fn func(store.Job) error) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("watch job %q: %w", job, err)
	}
	var found *store.Job
	for _, j := range d.done {
		if j.ID == job {
			found = &j
			break
		}
	}
	d.mu.Unlock()
	if found == nil {
		return fmt.Errorf("watch job %q: %w", job, store.ErrNotFound)
	}
	return fn(*found)
}

// PauseJob answers ErrNotFound: no job is ever waiting or running.
func (s *Store) PauseJob(ctx context.Context, job string) error { return s.noJob(ctx, "pause", job) }

// ResumeJob answers ErrNotFound, as PauseJob does.
func (s *Store) ResumeJob(ctx context.Context, job string) error { return s.noJob(ctx, "resume", job) }

// CancelJob answers ErrNotFound, as PauseJob does.
func (s *Store) CancelJob(ctx context.Context, job string) error { return s.noJob(ctx, "cancel", job) }

func (s *Store) noJob(ctx context.Context, op, job string) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("%s job %q: %w", op, job, err)
	}
	d.mu.Unlock()
	return fmt.Errorf("%s job %q: %w", op, job, store.ErrNotFound)
}
