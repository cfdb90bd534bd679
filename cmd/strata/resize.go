package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) resizeCmd() *cobra.Command {
	var to size.Value
	var allowShrink bool
	cmd := &cobra.Command{
		Use:     "resize --size SIZE IMAGE",
		Short:   "Make an image larger, or smaller with --allow-shrink",
		Example: "  strata resize --size 20G data",
	}
	cmd.Flags().VarP(&to, "size", "s", "new size, for example 20G")
	cmd.Flags().BoolVar(&allowShrink, "allow-shrink", false, "allow a smaller size; what is cut off is lost")
	before(cmd, func() error {
		if to.Bytes == 0 {
			return usagef(cmd, "%s wants --size", cmd.CommandPath())
		}
		return nil
	})
	return c.aboutImage(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		if to.Bytes < i.Size && !allowShrink {
			return usagef(cmd, "resize %s from %s to %s would cut off data; say --allow-shrink if that is meant",
				i.Name, size.Exact(i.Size), size.Exact(to.Bytes))
		}
		i, err := s.Resize(ctx, i.ID, to.Bytes)
		if err != nil {
			return err
		}
		if i.Size != to.Bytes {
			return fmt.Errorf("resize %s: the size is %d after asking for %d", i.Name, i.Size, to.Bytes)
		}
		return c.quiet(i)
	})
}
