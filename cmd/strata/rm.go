package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// mostNamed is how many objects a message names before it only counts.
const mostNamed = 8

// kept is what stays when an image or snapshot is removed.
type kept struct {
	Removed string `json:"removed"`
	// Snapshots outlive their image.
	Snapshots []string `json:"snapshots"`
	// Children go on reading what they share with it.
	Children []string `json:"children"`
	// Retained is the most that one of the children keeps of removed objects, in bytes.
	Retained int64 `json:"retained"`
}

func (c *cli) rmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images",
		Long: "Remove images, at once and without copying, whatever depends on them. Snapshots\n" +
			"outlive their image, and clones keep what they read of it; both is said.",
		Args:              args(1, -1, "one or more IMAGEs"),
		ValidArgsFunction: c.completeRefs(-1, store.KindImage),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.removeAll(cmd.Context(), args, c.image)
		},
	}
}

// removeAll removes what it can, and reports what it cannot.
func (c *cli) removeAll(ctx context.Context, refs []string, find func(context.Context, string) (store.Info, error)) error {
	var errs []error
	all := []kept{}
	for _, ref := range refs {
		i, err := find(ctx, ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k, err := c.removeOne(ctx, i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, k)
	}
	errs = append(errs, c.show(all, func() error {
		for _, k := range all {
			if line := k.line(); line != "" {
				fmt.Fprintln(c.out, line)
			}
		}
		return nil
	}))
	return errors.Join(errs...)
}

func (c *cli) removeOne(ctx context.Context, i store.Info) (kept, error) {
	s, err := c.dial()
	if err != nil {
		return kept{}, err
	}
	k := kept{Removed: i.Ref(), Snapshots: []string{}, Children: []string{}}
	children, err := s.Children(ctx, i.ID)
	if err != nil {
		return kept{}, err
	}
	for _, child := range children {
		k.Children = append(k.Children, child.Ref())
	}
	if i.Kind == store.KindImage && i.Snapshots > 0 {
		snaps, err := snapshotsOf(ctx, s, i.ID)
		if err != nil {
			return kept{}, err
		}
		for _, snap := range snaps {
			k.Snapshots = append(k.Snapshots, snap.Ref())
		}
	}
	if err := s.Remove(ctx, i.ID); err != nil {
		return kept{}, err
	}
	if imported(i) {
		_ = endImport(ctx, s, i.Digest, i.Name) // a few bytes at most stay
	}
	for _, child := range children[:min(len(children), mostNamed)] {
		// Only for the message; the child may be gone by now.
		if u, err := s.Usage(ctx, child.ID); err == nil {
			k.Retained = max(k.Retained, u.Retained)
		}
	}
	return k, nil
}

// line says what stays; "" when nothing does.
func (k kept) line() string {
	var parts []string
	if len(k.Snapshots) > 0 {
		parts = append(parts, "its snapshots stay: "+few(k.Snapshots))
	}
	if len(k.Children) > 0 {
		parts = append(parts, "clones go on with its data: "+few(k.Children))
	}
	if k.Retained > 0 {
		parts = append(parts, size.Human(k.Retained)+" retained")
	}
	if len(parts) == 0 {
		return ""
	}
	return "removed " + k.Removed + "; " + strings.Join(parts, "; ")
}

func few(names []string) string {
	if more := len(names) - mostNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// snapshotsOf lists the snapshots of an image, also of a removed one.
func snapshotsOf(ctx context.Context, s *storeapi.Client, image store.ID) ([]store.Info, error) {
	var found []store.Info
	err := s.Walk(ctx, func(i store.Info) error {
		if i.Kind == store.KindSnapshot && i.Image == image {
			found = append(found, i)
		}
		return nil
	})
	return found, err
}
