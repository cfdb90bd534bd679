package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/store"
)

// spaceAnswer is one row of du as JSON.
type spaceAnswer struct {
	Name string     `json:"name"`
	Kind store.Kind `json:"kind"`
	store.Usage
}

func (c *cli) duCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "du [IMAGE[@SNAPSHOT]]",
		Short: "Show what images and snapshots cost",
		Long: "Show what images and snapshots cost. OWN is given back when only this object is\n" +
			"removed; SHARED is kept by others too. RETAINED is the part of both that belonged to\n" +
			"removed objects.",
		Args:              args(0, 1, "at most one IMAGE or IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, usage, err := c.usageOf(cmd.Context(), args)
			if err != nil {
				return err
			}
			answer := []spaceAnswer{}
			for _, i := range all {
				if u, ok := usage[i.ID]; ok {
					answer = append(answer, spaceAnswer{Name: i.Ref(), Kind: i.Kind, Usage: u})
				}
			}
			return c.show(answer, func() error { return c.printSpace(answer) })
		},
	}
}

func (c *cli) printSpace(answer []spaceAnswer) error {
	t := table.New("NAME", ">SIZE", ">OWN", ">SHARED", ">RETAINED")
	var own int64
	for _, a := range answer {
		own += a.Own
		t.Row(a.Name, size.Human(a.Size), size.Human(a.Own), size.Human(a.Shared), size.Human(a.Retained))
	}
	if len(answer) > 1 {
		t.Row("TOTAL", "", size.Human(own))
	}
	if _, err := t.WriteTo(c.out); err != nil {
		return err
	}
	for _, a := range answer {
		for _, why := range a.RetainedFor {
			fmt.Fprintf(c.out, "%s: retained: %s\n", a.Name, why)
		}
	}
	return nil
}

// usageOf accounts the objects named by refs, or all.
func (c *cli) usageOf(ctx context.Context, refs []string) ([]store.Info, map[store.ID]store.Usage, error) {
	if len(refs) == 0 {
		return c.usage(ctx)
	}
	i, err := c.object(ctx, refs[0])
	if err != nil {
		return nil, nil, err
	}
	u, err := c.client.Usage(ctx, i.ID)
	if err != nil {
		return nil, nil, err
	}
	return []store.Info{i}, map[store.ID]store.Usage{i.ID: u}, nil
}

// usage lists and accounts every object of the store. One that is removed meanwhile
// is left out, one that cannot be accounted is listed without numbers.
func (c *cli) usage(ctx context.Context) ([]store.Info, map[store.ID]store.Usage, error) {
	s, err := c.dial()
	if err != nil {
		return nil, nil, err
	}
	var all []store.Info
	if err := s.Walk(ctx, func(i store.Info) error { all = append(all, i); return nil }); err != nil {
		return nil, nil, err
	}
	usage := make(map[store.ID]store.Usage, len(all))
	found := all[:0]
	for _, i := range all {
		u, err := s.Usage(ctx, i.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err == nil:
			usage[i.ID] = u
		case !errors.Is(err, store.ErrCorrupt):
			return nil, nil, err
		}
		found = append(found, i)
	}
	return found, usage, nil
}
