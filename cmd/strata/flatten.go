package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) flattenCmd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "flatten IMAGE",
		Short: "Copy what an image inherits and cut its clone link",
		Long: "Copy what an image inherits and cut its clone link, under live I/O. Interrupting this\n" +
			"command does not stop the flatten; strata jobs does.",
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "queue the flatten and return at once")
	return c.aboutImage(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		if noWait {
			job, err := s.StartFlatten(ctx, i.ID)
			if err != nil {
				return err
			}
			return c.quiet(job)
		}
		bar := c.progress("flatten "+i.Name, 0)
		err := s.FlattenProgress(ctx, i.ID, func(j store.Job) { bar.set(j.Done, j.Total) })
		bar.done(err == nil)
		if err != nil {
			return interrupted(err, goesOn)
		}
		if i, err = s.Stat(ctx, i.ID); err != nil {
			return err
		}
		return c.quiet(i)
	})
}
