package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) snapCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snap",
		Short: "Make, list, remove and roll back to snapshots",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.snapCreateCmd(), c.snapLsCmd(), c.snapRmCmd(), c.snapRollbackCmd())
	return cmd
}

func (c *cli) snapCreateCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "create IMAGE@SNAPSHOT",
		Short:             "Freeze an image as it is now, at once and under live I/O",
		Args:              args(1, 1, "an IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, snap, err := store.SplitRef(args[0])
			if err != nil {
				return err
			}
			if snap == "" {
				return usagef(cmd, "%q names no snapshot; write %s@NAME", args[0], args[0])
			}
			i, err := c.image(cmd.Context(), image)
			if err != nil {
				return err
			}
			s, err := c.dial()
			if err != nil {
				return err
			}
			if i, err = s.Snapshot(cmd.Context(), i.ID, snap); err != nil {
				return err
			}
			return c.quiet(i)
		},
	}
}

func (c *cli) snapLsCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "ls IMAGE",
		Short:             "List the snapshots of an image, also of a removed one",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := c.snapshots(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			t := table.New("NAME", ">SIZE", "CREATED", "STATE", "ID")
			for _, i := range found {
				t.Row(i.Name, size.Human(i.Size), i.Created.UTC().Format(time.RFC3339), string(i.State), string(i.ID))
			}
			return c.table(list(found), t)
		},
	}
}

// snapshots lists those of the image of that name or id. Where several images had the
// name, the living one counts; without one, all that are gone.
func (c *cli) snapshots(ctx context.Context, ref string) ([]store.Info, error) {
	s, err := c.dial()
	if err != nil {
		return nil, err
	}
	i, lookup := c.image(ctx, ref)
	if lookup == nil {
		return snapshotsOf(ctx, s, i.ID)
	}
	if !errors.Is(lookup, store.ErrNotFound) {
		return nil, lookup
	}
	var found []store.Info
	err = s.Walk(ctx, func(i store.Info) error {
		if i.Kind == store.KindSnapshot && (i.ImageName == ref || i.Image == store.ID(ref)) {
			found = append(found, i)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = lookup
	}
	return found, err
}

func (c *cli) snapRmCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "rm IMAGE@SNAPSHOT...",
		Short:             "Remove snapshots; clones made from them stay",
		Args:              args(1, -1, "one or more IMAGE@SNAPSHOTs"),
		ValidArgsFunction: c.completeRefs(-1, store.KindSnapshot),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.removeAll(cmd.Context(), args, c.snapshot)
		},
	}
}

func (c *cli) snapRollbackCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback IMAGE@SNAPSHOT",
		Short: "Make an image show again what one of its snapshots shows",
		Long:  "Make an image show again what one of its snapshots shows. What was written since is\nlost; all snapshots stay.",
	}
	return c.aboutSnapshot(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		if i.ImageRemoved {
			return fmt.Errorf("roll back to %s: its image was removed; clone the snapshot instead: %w", i.Ref(), store.ErrNotFound)
		}
		if err := s.Revert(ctx, i.Image, i.ID); err != nil {
			return err
		}
		i, err := s.Stat(ctx, i.Image)
		if err != nil {
			return err
		}
		return c.quiet(i)
	})
}
