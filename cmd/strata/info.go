package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/tree"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// infoAnswer is what info prints as JSON: the object's fields, and more.
type infoAnswer struct {
	store.Info
	Usage store.Usage `json:"usage"`
	Job   *store.Job  `json:"job,omitempty"`
}

func (c *cli) infoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info IMAGE[@SNAPSHOT]", Short: "Describe an image or snapshot"}
	return c.aboutObject(cmd, func(ctx context.Context, s *storeapi.Client, i store.Info) error {
		answer := infoAnswer{Info: i}
		var err error
		if answer.Usage, err = s.Usage(ctx, i.ID); err != nil {
			return err
		}
		jobs, err := s.Jobs(ctx)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Kind == store.JobFlatten && j.Target == string(i.ID) {
				answer.Job = &j
			}
		}
		return c.show(answer, func() error { return answer.print(c.out) })
	})
}

func (a infoAnswer) print(out io.Writer) error {
	fmt.Fprintf(out, "%s %s\n", a.Kind, a.Ref())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", key, value)
		}
	}
	row("id", string(a.ID))
	row("size", fmt.Sprintf("%s (%d bytes)", size.Human(a.Size), a.Size))
	row("block size", fmt.Sprint(a.BlockSize))
	row("created", a.Created.UTC().Format(time.RFC3339))
	row("state", a.state())
	if a.Parent != "" {
		row("parent", fmt.Sprintf("%s (overlap %s)", a.ParentName, size.Human(a.Overlap)))
	}
	row("depth", fmt.Sprint(a.Depth))
	row("clone depth", a.clonePolicy())
	row("limits", limitsText(a.Limits))
	row("format", string(a.Format))
	if a.Kind == store.KindImage {
		row("snapshots", fmt.Sprint(a.Snapshots))
	}
	if a.ImageRemoved {
		row("image", "removed; this snapshot stays")
	}
	row("node", a.Node)
	row("own", size.Human(a.Usage.Own))
	row("shared", size.Human(a.Usage.Shared))
	if a.Usage.Retained > 0 {
		row("retained", size.Human(a.Usage.Retained))
	}
	for _, why := range a.Usage.RetainedFor {
		row("retained for", why)
	}
	return w.Flush()
}

func (a infoAnswer) state() string {
	text := string(a.State)
	if a.Job != nil {
		text = tree.Progress(*a.Job)
	}
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}

// limitsText is what clients may do in a second; "" for all they can.
func limitsText(l store.Limits) string {
	var parts []string
	if l.IOPS > 0 {
		parts = append(parts, fmt.Sprintf("%d requests/s", l.IOPS))
	}
	if l.Bandwidth > 0 {
		parts = append(parts, size.Human(l.Bandwidth)+"/s")
	}
	return strings.Join(parts, ", ")
}

// clonePolicy is the image's own policy; "" for the store's defaults.
func (a infoAnswer) clonePolicy() string {
	if a.Policy == (store.Policy{}) {
		return ""
	}
	return fmt.Sprintf("%s soft, %s hard", orDefault(a.Policy.Soft), orDefault(a.Policy.Hard))
}

func orDefault(n int) string {
	if n == 0 {
		return "default"
	}
	return fmt.Sprint(n)
}
