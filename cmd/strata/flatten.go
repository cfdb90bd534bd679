package main

import (
	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) flattenCmd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "flatten IMAGE",
		Short: "Copy what an image inherits and cut its clone link",
		Long: "Copy what an image inherits and cut its clone link, under live I/O. Interrupting this\n" +
			"command does not stop the flatten; strata jobs does.",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := c.image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s, err := c.dial()
			if err != nil {
				return err
			}
			if noWait {
				job, err := s.StartFlatten(cmd.Context(), i.ID)
				if err != nil {
					return err
				}
				return c.quiet(job)
			}
			bar := c.progress("flatten "+i.Name, 0)
			err = s.FlattenProgress(cmd.Context(), i.ID, func(j store.Job) { bar.set(j.Done, j.Total) })
			bar.done(err == nil)
			if err != nil {
				return err
			}
			if i, err = s.Stat(cmd.Context(), i.ID); err != nil {
				return err
			}
			return c.quiet(i)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "queue the flatten and return at once")
	return cmd
}
