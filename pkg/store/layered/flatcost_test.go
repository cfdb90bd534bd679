package layered_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// costRounds is how often each case is measured at least, after costWarmUp rounds that
// are not.
const (
	costRounds = 200
	costWarmUp = 20
)

// costOps are the operations whose cost must follow neither size nor depth. Each prepares
// one, calls it once to be measured, and brings the store back to where it was.
var costOps = []struct {
	name   string
	around func(c *costCase)
}{
	{"clone of a snapshot", func(c *costCase) {
		var made store.Info
		c.measure(func() { made = c.rig.clone(c.rig.snap.ID, "c") })
		c.rig.remove(made.ID)
	}},
	{"snapshot of an image", func(c *costCase) {
		_, err := c.dev.WriteAt(pattern(4096, uint64(c.rig.n)), 0)
		c.rig.must(err)
		before := c.rig.snap.ID
		c.measure(func() { c.rig.snap = c.rig.rig.snap(c.rig.image.ID, fmt.Sprint("t", c.rig.n)) })
		c.rig.n++
		c.rig.remove(before) // its layer is merged before the next round
	}},
}

// BenchmarkCostIsFlat measures clone of a snapshot and snapshot of an image that was
// written to, for two sizes and two depths, and prints a table. The cases take turns,
// in an order that changes with every round, so that what the machine does besides
// meets all of them alike. It runs in memory, where the processor's share is seen, and
// on the disk of temporary files, where syncs cost:
//
//	go test -run '^$' -bench CostIsFlat -benchtime 200x ./pkg/store/layered
func BenchmarkCostIsFlat(b *testing.B) {
	for _, place := range []struct {
		name string
		dir  func(b *testing.B) string
	}{
		{"memory", func(b *testing.B) string { return scratch(b) }},
		{"disk", func(b *testing.B) string { return b.TempDir() }},
	} {
		for _, op := range costOps {
			b.Run(place.name+"/"+strings.ReplaceAll(op.name, " ", "-"), func(b *testing.B) {
				cases := make([]*costCase, len(costCases))
				for i, c := range costCases {
					cases[i] = newCostCase(b, place.dir(b), c.size, c.depth)
				}
				takeTurns(b, cases, op.around)
				b.Log(costTable(place.name+", "+op.name, cases))
				for i, c := range cases {
					b.ReportMetric(float64(middle(c.times).Microseconds()), strings.ReplaceAll(costCases[i].name, "/", "-")+"-µs")
				}
				b.ReportMetric(0, "ns/op") // a round is no operation
			})
		}
	}
}

// costCase is one size and depth under measurement.
type costCase struct {
	rig              *costRig
	dev              store.Device // the image's
	times            []time.Duration
	catalogue, files []int64
}

func newCostCase(b *testing.B, dir string, size int64, depth int) *costCase {
	b.Helper()
	c := &costCase{rig: newCostRig(b, dir, size, depth)}
	var err error
	c.dev, err = c.rig.st.Open(b.Context(), c.rig.image.ID)
	c.rig.must(err)
	b.Cleanup(func() { c.rig.must(c.dev.Close()) })
	return c
}

// measure does an operation. What it leaves to be done behind it counts among its
// syncs, not in its time.
func (c *costCase) measure(op func()) {
	r := c.rig
	r.idle()
	cat, files := r.syncs()
	began := time.Now()
	op()
	took := time.Since(began)
	r.st.WaitTidy()
	catNow, filesNow := r.syncs()
	c.times = append(c.times, took)
	c.catalogue, c.files = append(c.catalogue, catNow-cat), append(c.files, filesNow-files)
}

// takeTurns measures every case in every round.
func takeTurns(b *testing.B, cases []*costCase, around func(*costCase)) {
	b.Helper()
	n := 0
	round := func() {
		for i := range cases {
			around(cases[(i+n)%len(cases)])
		}
		n++
	}
	for range costWarmUp {
		round()
	}
	for _, c := range cases {
		c.times, c.catalogue, c.files = nil, nil, nil
	}
	for b.Loop() {
		round()
	}
	for n < costWarmUp+costRounds {
		round()
	}
}

func costTable(title string, cases []*costCase) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%s, %d rounds, syncs of catalogue and files\n", title, len(cases[0].times))
	fmt.Fprintf(&t, "%-16s %10s %10s %6s %5s %5s\n", "", "median", "p90", "ratio", "cat", "files")
	base := middle(cases[0].times)
	for i, c := range cases {
		fmt.Fprintf(&t, "%-16s %10v %10v %6.2f %5d %5d\n", costCases[i].name, middle(c.times).Round(time.Microsecond),
			at(c.times, 9, 10).Round(time.Microsecond), float64(middle(c.times))/float64(base), middle(c.catalogue), middle(c.files))
	}
	return t.String()
}

// at is the value below which num of den lie.
func at[E ~int64](values []E, num, den int) E {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)*num/den]
}

func middle[E ~int64](values []E) E { return at(values, 1, 2) }
