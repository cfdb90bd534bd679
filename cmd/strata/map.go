package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) mapCmd() *cobra.Command {
	var pool string
	var readOnly bool
	cmd := &cobra.Command{
		Use:   "map IMAGE|IMAGE@SNAPSHOT",
		Short: "Make a kernel block device of an image on this host",
		Long: "Make a kernel NBD device of an image, or of a snapshot for reading, and print its path.\n" +
			"The node process of this host (strata node) does it and keeps it connected.",
		Example: "  dev=$(strata map alice) && mkfs.ext4 $dev && mount $dev /mnt",
		Args:    args(1, 1, "an image or a snapshot"),
	}
	cmd.Flags().StringVar(&pool, "pool", "", "pool that has the image (default: the default pool)")
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "only read; others may read too")
	return byNode(cmd, func(ctx context.Context, node *app.Control, args []string) error {
		m, err := node.Map(ctx, pool, args[0], readOnly)
		if err != nil {
			return err
		}
		return c.show(m, func() error {
			_, err := fmt.Fprintln(c.out, m.Device)
			return err
		})
	})
}

func (c *cli) unmapCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unmap IMAGE|POOL/IMAGE|DEVICE",
		Short: "End a kernel block device that strata map made",
		Args:  args(1, 1, "an image or a device"),
	}
	return byNode(cmd, func(ctx context.Context, node *app.Control, args []string) error { return node.Unmap(ctx, args[0]) })
}

func (c *cli) mappedCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mapped",
		Short: "List the kernel block devices on this host, and what is wrong with them",
		Args:  args(0, 0, ""),
	}
	return byNode(cmd, func(ctx context.Context, node *app.Control, _ []string) error {
		all, err := node.Mapped(ctx)
		if err != nil {
			return err
		}
		t := table.New("DEVICE", "POOL", "IMAGE", "SIZE", "ACCESS", "STATE")
		for _, m := range all {
			name, state := m.Image, "connected"
			if name == "" {
				name = string(m.ID)
			}
			if m.Problem != "" {
				state = m.Problem
			}
			t.Row(m.Device, m.Pool, name, size.Human(m.Size), string(m.Access), state)
		}
		return c.table(list(all), t)
	})
}

// adviseNode says what to do when the node process cannot help.
func adviseNode(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrUnavailable):
		return advise(err, "see that the node process runs (strata node --pools FILE) and that its stores do; name its state directory with --state")
	case errors.Is(err, store.ErrInUse):
		return advise(err, "see who has it: strata publications; devices of this host: strata mapped")
	}
	return err
}
