package tree

import (
	"fmt"
	"io"
	"strings"

	"github.com/strata-csi/strata/cmd/strata/internal/size"
	"github.com/strata-csi/strata/cmd/strata/internal/table"
	"github.com/strata-csi/strata/pkg/store"
)

// strokes are the pieces a tree is drawn with.
type strokes struct{ tee, corner, bar, blank string }

// Draw prints the trees with a line for each object. With ascii no character outside
// of ASCII is used for the lines.
func Draw(w io.Writer, roots []*Node, ascii bool) error {
	s := strokes{"├─ ", "└─ ", "│  ", "   "}
	if ascii {
		s = strokes{"|- ", "`- ", "|  ", "   "}
	}
	t := table.New("NAME", ">DEPTH", ">SIZE", ">OWN", ">SHARED", ">RETAINED", "STATE")
	for _, r := range roots {
		s.draw(t, r, "", "")
	}
	_, err := t.WriteTo(w)
	return err
}

func (s strokes) draw(t *table.Table, n *Node, lead, below string) {
	cells := []string{lead + label(n), fmt.Sprint(n.Depth), "", "", "", "", state(n)}
	if !n.Removed {
		cells[2] = size.Human(n.Size)
	}
	if u := n.Usage; u != nil {
		cells[3], cells[4], cells[5] = size.Human(u.Own), size.Human(u.Shared), size.Human(u.Retained)
	}
	t.Row(cells...)
	for i, c := range n.Children {
		if i == len(n.Children)-1 {
			s.draw(t, c, below+s.corner, below+s.blank)
		} else {
			s.draw(t, c, below+s.tee, below+s.bar)
		}
	}
}

// label shortens a snapshot's name where its image is just above.
func label(n *Node) string {
	if n.Kind == store.KindSnapshot && n.above != nil {
		if at := strings.LastIndexByte(n.Name, '@'); at >= 0 {
			return n.Name[at:]
		}
	}
	return n.Name
}

func state(n *Node) string {
	switch {
	case n.Removed:
		return "removed"
	case n.Flatten != nil:
		return Progress(*n.Flatten)
	}
	return string(n.State)
}

// Progress says in words how far a flatten is: "flattening 42%", "flatten queued".
func Progress(j store.Job) string {
	switch j.State {
	case store.JobRunning:
		return fmt.Sprintf("flattening %d%%", Percent(j))
	case store.JobPaused:
		return fmt.Sprintf("flatten paused at %d%%", Percent(j))
	}
	return "flatten " + string(j.State)
}

// Percent is how much of a job is done, from 0 to 100; 100 only when all is.
func Percent(j store.Job) int {
	switch {
	case j.State == store.JobDone:
		return 100
	case j.Total <= 0:
		return 0
	}
	return int(float64(min(max(j.Done, 0), j.Total)) / float64(j.Total) * 100)
}
