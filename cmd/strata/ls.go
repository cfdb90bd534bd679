package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) lsCmd() *cobra.Command {
	var long bool
	cmd := &cobra.Command{Use: "ls", Short: "List images; with --long also snapshots and details"}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "also list snapshots, and show size, parent, depth and state")
	return c.aboutStore(cmd, func(ctx context.Context, s *storeapi.Client) error {
		var found []store.Info
		err := s.Walk(ctx, func(i store.Info) error {
			if long || i.Kind == store.KindImage {
				found = append(found, i)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return c.show(list(found), func() error {
			open, err := c.unfinished(ctx, found...)
			if err != nil {
				return err
			}
			return c.printList(found, open, long)
		})
	})
}

// printList prints images. The imports of those with a digest in open have not ended.
func (c *cli) printList(found []store.Info, open map[string]bool, long bool) error {
	for _, i := range found {
		if open[i.Digest] && imported(i) {
			c.noteImporting(i.Name)
		}
	}
	if !long {
		for _, i := range found {
			fmt.Fprintln(c.out, i.Name)
		}
		return nil
	}
	t := table.New("NAME", ">SIZE", "PARENT", ">DEPTH", "STATE", "NODE")
	for _, i := range found {
		name := i.Ref()
		if i.ImageRemoved {
			name += " (image removed)"
		}
		state := string(i.State)
		if open[i.Digest] && imported(i) {
			state = importingState
		}
		t.Row(name, size.Human(i.Size), i.ParentName, fmt.Sprint(i.Depth), state, i.Node)
	}
	_, err := t.WriteTo(c.out)
	return err
}
