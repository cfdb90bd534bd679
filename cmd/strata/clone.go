package main

import (
	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) cloneCmd() *cobra.Command {
	var f newImageFlags
	var flat bool
	cmd := &cobra.Command{
		Use:   "clone SOURCE IMAGE",
		Short: "Make an image that starts as a copy of a snapshot or image",
		Long: "Make an image that starts as a copy of a snapshot or image, at once and without\n" +
			"copying data. Source and clone have independent lives: either may be removed.",
		Example:           "  strata clone data@monday scratch\n  strata clone --size 20G data bigger",
		Args:              args(2, 2, "a SOURCE and an IMAGE"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.validate(cmd); err != nil {
				return err
			}
			source, err := c.object(cmd.Context(), args[0])
			if err != nil {
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
				Name: args[1], Size: f.size.Bytes, Parent: source.ID, Policy: f.policy, Limits: limits, Flatten: flat,
			})
			if err != nil {
				return err
			}
			if tooDeep(i) && !flat {
				c.note("%s is %d clone links deep, above its soft limit; a flatten is queued, see: strata jobs ls", i.Name, i.Depth)
			}
			return c.quiet(i)
		},
	}
	cmd.Flags().VarP(&f.size, "size", "s", "size of the clone, at least that of the source (default: the same)")
	f.policyFlags(cmd)
	f.add(cmd)
	cmd.Flags().BoolVar(&flat, "flatten", false, "make it independent of its source, in the background")
	return cmd
}

// tooDeep tells whether the store has queued a flatten because of this clone: of the
// clone itself, or of an ancestor that helps more for less.
func tooDeep(i store.Info) bool {
	return i.State == store.StateFlattening || i.Policy.Soft > 0 && i.Depth > i.Policy.Soft
}
