package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// settle waits, job by job, until the store lists none. A paused or failed job is an
// error, as it would wait for ever.
func settle(ctx context.Context, s store.Full) error {
	for {
		jobs, err := s.Jobs(ctx)
		if err != nil {
			return fmt.Errorf("list jobs: %w", err)
		}
		if len(jobs) == 0 {
			return nil
		}
		for _, j := range jobs {
			if err := await(ctx, s, j); err != nil {
				return err
			}
		}
	}
}

// await waits for one job to end.
func await(ctx context.Context, s store.Full, j store.Job) error {
	last := j
	err := s.WatchJob(ctx, j.ID, func(now store.Job) error {
		last = now
		if now.State == store.JobPaused || now.State == store.JobFailed {
			return errStuck
		}
		return nil
	})
	if errors.Is(err, errStuck) || last.State == store.JobFailed {
		return fmt.Errorf("%s job of %s is %s: %s: %w", last.Kind, last.Target, last.State, last.Error, errStuck)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("watch %s job of %s: %w", j.Kind, j.Target, err)
	}
	return nil
}

var errStuck = errors.New("job does not go on by itself")
