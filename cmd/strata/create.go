package main

import (
	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/store"
)

// newImageFlags are the flags of the verbs that make an image.
type newImageFlags struct {
	size      size.Value
	blockSize int
	policy    store.Policy
	limitFlags
}

func (f *newImageFlags) policyFlags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.policy.Soft, "soft-depth", 0, "clone depth above which a flatten is queued (0: inherit, or the store's default)")
	cmd.Flags().IntVar(&f.policy.Hard, "hard-depth", 0, "clone depth above which clones are refused until a flatten is done (0: inherit, or the store's default)")
}

func (f *newImageFlags) blockSizeFlag(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.blockSize, "block-size", 0, "logical block size offered to clients: 512 or 4096 (default 4096)")
}

// validate refuses what the store would refuse, before anything is asked of it.
func (f *newImageFlags) validate(cmd *cobra.Command) error {
	if f.blockSize != 0 || cmd.Flags().Changed("block-size") {
		if err := store.ValidateBlockSize(f.blockSize); err != nil {
			return usagef(cmd, "--block-size: %w", err)
		}
	}
	if err := store.ValidatePolicy(f.policy); err != nil {
		return usagef(cmd, "%w", err)
	}
	return nil
}

func (c *cli) createCmd() *cobra.Command {
	var f newImageFlags
	cmd := &cobra.Command{
		Use:               "create --size SIZE IMAGE",
		Short:             "Make an empty image",
		Example:           "  strata create --size 10G data",
		Args:              args(1, 1, "an IMAGE"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.size.Bytes == 0 {
				return usagef(cmd, "%s wants --size", cmd.CommandPath())
			}
			if err := f.validate(cmd); err != nil {
				return err
			}
			var limits store.Limits
			if err := f.apply(cmd, &limits); err != nil {
				return err
			}
			s, err := c.dial()
			if err != nil {
				return err
			}
			i, err := s.Create(cmd.Context(), store.Spec{
				Name: args[0], Size: f.size.Bytes, BlockSize: f.blockSize, Policy: f.policy, Limits: limits,
			})
			if err != nil {
				return err
			}
			return c.quiet(i)
		},
	}
	cmd.Flags().VarP(&f.size, "size", "s", "size of the image, for example 10G")
	f.blockSizeFlag(cmd)
	f.policyFlags(cmd)
	f.add(cmd)
	return cmd
}
