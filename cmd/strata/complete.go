package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
)

// completionPatience bounds how long the shell waits for a store.
const completionPatience = 2 * time.Second

// anyKind is for verbs that take images and snapshots.
const anyKind = store.Kind("")

// completeRefs offers the names of a kind for the first most arguments; most < 0
// means all.
func (c *cli) completeRefs(most int, kind store.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, directive := c.refs(cmd.Context(), kind, typed)
		// What was given already is not offered again.
		var fresh []string
		for _, ref := range found {
			if !slices.Contains(args, ref) {
				fresh = append(fresh, ref)
			}
		}
		return fresh, directive
	}
}

func (c *cli) refs(ctx context.Context, kind store.Kind, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completionPatience)
	defer cancel()
	s, err := c.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var found []string
	directive := cobra.ShellCompDirectiveNoFileComp
	err = s.Walk(ctx, func(i store.Info) error {
		ref := i.Ref()
		switch {
		case !strings.HasPrefix(ref, typed):
		case i.Kind == kind:
			found = append(found, ref)
		case kind != anyKind:
		case i.Kind == store.KindSnapshot && !strings.Contains(typed, "@"):
			// Shown once the image is typed; else snapshots drown the images.
		default:
			found = append(found, ref)
		}
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return found, directive
}
