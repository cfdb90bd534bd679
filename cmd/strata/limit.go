package main

import (
	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/store"
)

// limitFlags are the flags that bound the I/O on an image.
type limitFlags struct {
	iops      int64
	bandwidth size.Rate
}

func (f *limitFlags) add(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.iops, "iops", 0, "requests per second, reads and writes together (0: no limit)")
	cmd.Flags().Var(&f.bandwidth, "bandwidth", "bytes per second, read and written together, for example 10M (0: no limit)")
}

// apply changes what was given on the command line.
func (f *limitFlags) apply(cmd *cobra.Command, l *store.Limits) error {
	if cmd.Flags().Changed("iops") {
		l.IOPS = f.iops
	}
	if cmd.Flags().Changed("bandwidth") {
		l.Bandwidth = f.bandwidth.Bytes
	}
	if err := store.ValidateLimits(*l); err != nil {
		return usagef(cmd, "%w", err)
	}
	return nil
}

func (c *cli) limitCmd() *cobra.Command {
	var f limitFlags
	cmd := &cobra.Command{
		Use:   "limit [--iops N] [--bandwidth SIZE] IMAGE",
		Short: "Bound what clients may read and write",
		Long: "Bound what clients may read and write of an image, over all their connections. The\n" +
			"limits hold at once, also for clients that are connected; 0 lifts one. What is not\n" +
			"named stays as it is. Snapshots and clones have limits of their own.",
		Example:           "  strata limit --iops 500 --bandwidth 64M data\n  strata limit --iops 0 --bandwidth 0 data",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("iops") && !cmd.Flags().Changed("bandwidth") {
				return usagef(cmd, "%s wants --iops or --bandwidth, or both", cmd.CommandPath())
			}
			return c.modify(cmd, args[0], func(i store.Info) (store.Change, error) {
				err := f.apply(cmd, &i.Limits)
				return store.Change{Limits: &i.Limits}, err
			})
		},
	}
	f.add(cmd)
	return cmd
}

func (c *cli) policyCmd() *cobra.Command {
	var p store.Policy
	cmd := &cobra.Command{
		Use:   "policy [--soft N] [--hard N] IMAGE",
		Short: "Say how deep chains of clones may grow",
		Long: "Say how deep the chain of clones under an image may grow. It holds for the next clone\n" +
			"of it or of its snapshots, which inherits it. What is not named stays as it is.",
		Example:           "  strata policy --soft 4 --hard 16 golden",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("soft") && !cmd.Flags().Changed("hard") {
				return usagef(cmd, "%s wants --soft or --hard, or both", cmd.CommandPath())
			}
			return c.modify(cmd, args[0], func(i store.Info) (store.Change, error) {
				if cmd.Flags().Changed("soft") {
					i.Policy.Soft = p.Soft
				}
				if cmd.Flags().Changed("hard") {
					i.Policy.Hard = p.Hard
				}
				if err := store.ValidatePolicy(i.Policy); err != nil {
					return store.Change{}, usagef(cmd, "%w", err)
				}
				return store.Change{Policy: &i.Policy}, nil
			})
		},
	}
	cmd.Flags().IntVar(&p.Soft, "soft", 0, "clone depth above which a flatten is queued (0: the store's default)")
	cmd.Flags().IntVar(&p.Hard, "hard", 0, "clone depth above which clones are refused until a flatten is done (0: the store's default)")
	return cmd
}

// modify changes an image by what change makes of its description.
func (c *cli) modify(cmd *cobra.Command, ref string, change func(store.Info) (store.Change, error)) error {
	i, err := c.image(cmd.Context(), ref)
	if err != nil {
		return err
	}
	what, err := change(i)
	if err != nil {
		return err
	}
	if i, err = c.client.Modify(cmd.Context(), i.ID, what); err != nil {
		return err
	}
	return c.quiet(i)
}
