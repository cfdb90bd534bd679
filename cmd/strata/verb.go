package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// alone makes a verb one that takes no arguments.
func alone(cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = args(0, 0, ""), cobra.NoFileCompletions
	return cmd
}

// wants is an error if a flag has no value.
func wants(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if f := cmd.Flag(name); f != nil && f.Value.String() == "" {
			return usagef(cmd, "%s wants --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}

// aboutStore makes a verb one that asks the store, and takes no arguments.
func (c *cli) aboutStore(cmd *cobra.Command, run func(ctx context.Context, s *storeapi.Client) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := c.dial()
		if err != nil {
			return err
		}
		return run(cmd.Context(), s)
	}
	return alone(cmd)
}

// onObject is what a verb does with the image or snapshot that its one argument names.
type onObject func(ctx context.Context, s *storeapi.Client, i store.Info) error

// aboutObject makes a verb one about an image or snapshot.
func (c *cli) aboutObject(cmd *cobra.Command, run onObject) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = args(1, 1, "an IMAGE or IMAGE@SNAPSHOT"), c.completeRefs(1, anyKind)
	return c.about(cmd, c.object, run)
}

// aboutImage makes a verb one about an image.
func (c *cli) aboutImage(cmd *cobra.Command, run onObject) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = args(1, 1, "an IMAGE"), c.completeRefs(1, store.KindImage)
	return c.about(cmd, c.image, run)
}

// aboutSnapshot makes a verb one about a snapshot.
func (c *cli) aboutSnapshot(cmd *cobra.Command, run onObject) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = args(1, 1, "an IMAGE@SNAPSHOT"), c.completeRefs(1, store.KindSnapshot)
	return c.about(cmd, c.snapshot, run)
}

// before makes a verb check its flags before anybody is asked.
func before(cmd *cobra.Command, check func() error) *cobra.Command {
	cmd.PreRunE = func(*cobra.Command, []string) error { return check() }
	return cmd
}

func (c *cli) about(cmd *cobra.Command, find func(context.Context, string) (store.Info, error), run onObject) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		i, err := find(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return run(cmd.Context(), c.client, i)
	}
	return cmd
}

// byNode makes a verb one that the node process of this host carries out.
func byNode(cmd *cobra.Command, run func(ctx context.Context, node *app.Control, args []string) error) *cobra.Command {
	var dir string
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return adviseNode(run(cmd.Context(), app.NewControl(dir), args))
	}
	cmd.Flags().StringVar(&dir, "state", nodeState, "state directory of the node process")
	_ = cmd.MarkFlagDirname("state")
	return cmd
}

// daemon makes a verb one that serves until it is told to end. It wants values for some of
// its flags.
func (c *cli) daemon(cmd *cobra.Command, flags []string, serve func(ctx context.Context) error) *cobra.Command {
	var logs logging
	logs.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := wants(cmd, flags...); err != nil {
			return err
		}
		ctx, err := logs.context(cmd, c.err)
		if err != nil {
			return err
		}
		return serve(ctx)
	}
	return alone(cmd)
}
