package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/cmd/strata/internal/tree"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

func (c *cli) statusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Describe the store: space, work under way, what is wrong"}
	return c.aboutStore(cmd, func(ctx context.Context, s *storeapi.Client) error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		st.Jobs = list(st.Jobs)
		return c.show(st, func() error {
			if err := printStatus(c.out, st); err != nil {
				return err
			}
			return c.printJobs(ctx, st.Jobs)
		})
	})
}

func printStatus(out io.Writer, st store.Status) error {
	fmt.Fprintf(out, "store %s\n", st.UUID)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) {
		fmt.Fprintf(w, "  %s:\t"+format+"\n", append([]any{key}, args...)...)
	}
	row("backend", "%s", strings.TrimSpace(st.Backend+" "+st.Version))
	if st.Node != "" {
		row("node", "%s", st.Node)
	}
	row("images", "%d", st.Images)
	row("snapshots", "%d", st.Snapshots)
	row("layers", "%d", st.Layers)
	if st.Total > 0 {
		row("space", "%s free of %s", size.Human(st.Free), size.Human(st.Total))
	}
	row("copied", "%s by background work since the start", size.Human(st.Copied))
	row("jobs", "%d", len(st.Jobs))
	for _, text := range st.Warnings {
		row("warning", "%s", text)
	}
	for _, p := range st.Faulty {
		row("refused", "%s: %s", p.Object, p.Text)
	}
	return w.Flush()
}

// printJobs prints a table of jobs, nothing if there are none.
func (c *cli) printJobs(ctx context.Context, jobs []store.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	names := make(map[string]string)
	err := c.client.Walk(ctx, func(i store.Info) error { names[string(i.ID)] = i.Ref(); return nil })
	if err != nil {
		return err
	}
	t := table.New("JOB", "KIND", "TARGET", "STATE", ">DONE", ">COPIED", "REMARK")
	for _, j := range jobs {
		target, remark := j.Target, j.Error
		if name, ok := names[target]; ok {
			target = name
		}
		if j.Urgent && remark == "" {
			remark = "urgent"
		}
		t.Row(j.ID, string(j.Kind), target, string(j.State), fmt.Sprintf("%d%%", tree.Percent(j)), size.Human(j.Copied), remark)
	}
	_, err = t.WriteTo(c.out)
	return err
}

func (c *cli) checkCmd() *cobra.Command {
	var deep bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify every invariant of the store; with --deep read all data",
		Long: "Verify every invariant of the store; with --deep read all data. Harmless findings cost\n" +
			"space at most; with any other, the exit code is 1.",
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "also read all data")
	return c.aboutStore(cmd, func(ctx context.Context, s *storeapi.Client) error {
		found, err := s.Check(ctx, deep)
		if err != nil {
			return err
		}
		if err := c.show(list(found), func() error { return c.printProblems(found) }); err != nil {
			return err
		}
		return damage(found)
	})
}

func (c *cli) printProblems(found []store.Problem) error {
	if len(found) == 0 {
		fmt.Fprintln(c.out, "no problems found")
		return nil
	}
	t := table.New("OBJECT", "SEVERITY", "PROBLEM")
	for _, p := range found {
		severity := "damage"
		if p.Harmless {
			severity = "harmless"
		}
		t.Row(p.Object, severity, p.Text)
	}
	_, err := t.WriteTo(c.out)
	return err
}

// damage is an error if a check found any.
func damage(found []store.Problem) error {
	bad := 0
	for _, p := range found {
		if !p.Harmless {
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return fmt.Errorf("check: %d of %d findings mean damage: %w", bad, len(found), store.ErrCorrupt)
}
