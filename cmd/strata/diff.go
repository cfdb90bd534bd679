package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/pkg/store"
)

func (c *cli) diffCmd() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "diff [--from-snap SNAPSHOT] IMAGE[@SNAPSHOT]",
		Short: "List the ranges that changed since a snapshot, or that are not holes",
		Example: "  strata diff data@tuesday\n" +
			"  strata diff --from-snap monday data@tuesday",
		Args:              args(1, 1, "an IMAGE or IMAGE@SNAPSHOT"),
		ValidArgsFunction: c.completeRefs(1, anyKind),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := c.object(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var base store.ID
			if from != "" {
				i, err := c.snapshotOf(cmd, to, from)
				if err != nil {
					return err
				}
				base = i.ID
			}
			p := &rangePrinter{c: c}
			if err := c.client.Diff(cmd.Context(), base, to.ID, p.add); err != nil {
				return err
			}
			return p.end()
		},
	}
	cmd.Flags().StringVar(&from, "from-snap", "", "an older snapshot of the same image")
	return cmd
}

// snapshotOf finds a snapshot by its name within the image of to, or by its id.
func (c *cli) snapshotOf(cmd *cobra.Command, to store.Info, name string) (store.Info, error) {
	if store.IsID(name) {
		return c.snapshot(cmd.Context(), name)
	}
	found, err := snapshotsOf(cmd.Context(), c.client, to.Image)
	if err != nil {
		return store.Info{}, err
	}
	for _, i := range found {
		if i.Name == name {
			return i, nil
		}
	}
	return store.Info{}, fmt.Errorf("snapshot %s@%s: %w", to.ImageName, name, store.ErrNotFound)
}

// diffRange is one range of diff as JSON.
type diffRange struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	// Exists is false for a range that was discarded or zeroed.
	Exists bool `json:"exists"`
}

// rangePrinter prints ranges as they come, since there may be very many; neighbours
// of one kind become one.
type rangePrinter struct {
	c       *cli
	count   int
	pending diffRange
}

func (p *rangePrinter) add(e store.Extent) error {
	last := &p.pending
	if last.Length > 0 && last.Offset+last.Length == e.Offset && last.Exists == !e.Zero {
		last.Length += e.Length
		return nil
	}
	err := p.flush()
	p.pending = diffRange{Offset: e.Offset, Length: e.Length, Exists: !e.Zero}
	return err
}

func (p *rangePrinter) flush() error {
	r := p.pending
	if r.Length == 0 {
		return nil
	}
	defer func() { p.count++ }()
	if p.c.format != "json" {
		if p.count == 0 {
			fmt.Fprintf(p.c.out, "%16s %16s  %s\n", "OFFSET", "LENGTH", "TYPE")
		}
		kind := "data"
		if !r.Exists {
			kind = "zero"
		}
		_, err := fmt.Fprintf(p.c.out, "%16d %16d  %s\n", r.Offset, r.Length, kind)
		return err
	}
	lead := ",\n  "
	if p.count == 0 {
		lead = "[\n  "
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.c.out, "%s%s", lead, b)
	return err
}

func (p *rangePrinter) end() error {
	if err := p.flush(); err != nil {
		return err
	}
	if p.c.format != "json" {
		return nil
	}
	last := "\n]\n"
	if p.count == 0 {
		last = "[]\n"
	}
	_, err := fmt.Fprint(p.c.out, last)
	return err
}
