package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) resizeCmd() *cobra.Command {
	var to size.Value
	var allowShrink bool
	cmd := &cobra.Command{
		Use:               "resize --size SIZE IMAGE",
		Short:             "Make an image larger, or smaller with --allow-shrink",
		Example:           "  strata resize --size 20G data",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to.Bytes == 0 {
				return usagef(cmd, "%s wants --size", cmd.CommandPath())
			}
			i, err := c.image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if to.Bytes < i.Size && !allowShrink {
				return usagef(cmd, "resize %s from %s to %s would cut off data; say --allow-shrink if that is meant",
					i.Name, size.Exact(i.Size), size.Exact(to.Bytes))
			}
			s, err := c.dial()
			if err != nil {
				return err
			}
			if i, err = s.Resize(cmd.Context(), i.ID, to.Bytes); err != nil {
				return err
			}
			if i.Size != to.Bytes {
				return fmt.Errorf("resize %s: the size is %d after asking for %d", i.Name, i.Size, to.Bytes)
			}
			return c.quiet(i)
		},
	}
	cmd.Flags().VarP(&to, "size", "s", "new size, for example 20G")
	cmd.Flags().BoolVar(&allowShrink, "allow-shrink", false, "allow a smaller size; what is cut off is lost")
	return cmd
}
