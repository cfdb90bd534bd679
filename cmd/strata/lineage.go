package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/tree"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) childrenCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "children IMAGE[@SNAPSHOT]", Short: "List the images cloned from an image or snapshot"}
	return c.aboutObject(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		found, err := s.Children(ctx, i.ID)
		if err != nil {
			return err
		}
		return c.show(list(found), func() error {
			for _, child := range found {
				fmt.Fprintln(c.out, child.Ref())
			}
			return nil
		})
	})
}

func (c *cli) treeCmd() *cobra.Command {
	var ascii bool
	cmd := &cobra.Command{
		Use:   "tree [IMAGE[@SNAPSHOT]]",
		Short: "Draw the lineage: parents, snapshots, clones and what they cost",
		Long: "Draw the lineage of all images, or of the family of one. DEPTH counts clone links up\n" +
			"to the root. OWN is data that only this object keeps, SHARED what others keep too,\n" +
			"RETAINED the part of both that belonged to removed objects.",
		Args:              args(0, 1, "at most one IMAGE or IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := c.lineage(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				i, err := c.object(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				root := tree.Find(roots, i.ID)
				if root == nil { // made after the lineage was read
					return fmt.Errorf("tree of %s: %w", i.Ref(), store.ErrNotFound)
				}
				roots = []*tree.Node{root}
			}
			return c.show(list(roots), func() error { return tree.Draw(c.out, roots, ascii) })
		},
	}
	cmd.Flags().BoolVar(&ascii, "ascii", false, "draw lines with ASCII characters")
	return cmd
}

func (c *cli) lineage(ctx context.Context) ([]*tree.Node, error) {
	all, usage, err := c.usage(ctx)
	if err != nil {
		return nil, err
	}
	jobs, err := c.client.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	return tree.Build(all, usage, jobs), nil
}
