package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) scrubCmd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Read all data of the store and compare it with its checksums",
		Long: "Read all data of the store in the background and compare it with its checksums, under live\n" +
			"I/O and behind it. It fails if it finds damage; strata status tells what it found.\n" +
			"Interrupting this command does not stop the scrub; strata jobs does.",
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "queue the scrub and return at once")
	return c.aboutStore(cmd, func(ctx context.Context, s *storeapi.Client) error {
		job, err := s.StartScrub(ctx)
		if err != nil {
			return err
		}
		if noWait {
			return c.quiet(job)
		}
		bar := c.progress("scrub", job.Total)
		err = s.WatchJob(ctx, job.ID, func(j store.Job) error {
			bar.set(j.Done, j.Total)
			job = j
			return nil
		})
		bar.done(err == nil)
		if errors.Is(err, context.Canceled) {
			return interrupted(err, goesOn)
		}
		if err != nil {
			return advise(err, "see what is wrong, and where, with: strata status")
		}
		return c.quiet(job)
	})
}
