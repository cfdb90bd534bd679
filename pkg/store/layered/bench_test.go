package layered_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// costRig is a store whose syncs are counted, with an image of some size under a
// chain of clone links.
type costRig struct {
	*rig
	fs    *vfs.Counting
	image store.Info
	snap  store.Info
	n     int
}

func newCostRig(t testing.TB, size int64, depth int) *costRig {
	t.Helper()
	dir := t.TempDir() // on a disk: that is where syncs cost
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	o := testOptions(t)
	fs := vfs.NewCounting(vfs.OS())
	o.FS = fs
	o.Policy = store.Policy{Soft: 1000, Hard: 1000}
	st, err := layered.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	r := &costRig{rig: &rig{t, t.Context(), st, dir}, fs: fs}
	i := r.create("v0", size)
	r.write(i.ID, 0, 4096, 1)
	for n := 1; n < depth; n++ {
		i = r.clone(r.rig.snap(i.ID, "s").ID, fmt.Sprintf("v%d", n))
		r.write(i.ID, 0, 4096, uint64(n))
	}
	r.image, r.snap = i, r.rig.snap(i.ID, "s")
	t.Cleanup(func() { r.must(st.Close()) })
	return r
}

// syncs is how many syncs the catalogue and the file system have done.
func (r *costRig) syncs() (catalogue, files int64) { return r.st.Syncs(), r.fs.Syncs() }

func (r *costRig) cloneOnce() {
	r.n++
	r.clone(r.snap.ID, fmt.Sprintf("c%d", r.n))
}

func (r *costRig) snapshotOnce() {
	r.n++
	r.rig.snap(r.image.ID, fmt.Sprintf("t%d", r.n))
}

var costCases = []struct {
	name  string
	size  int64
	depth int
}{
	{"1MiB/depth=1", 1 << 20, 1},
	{"1MiB/depth=64", 1 << 20, 64},
	{"10TiB/depth=1", 10 << 40, 1},
	{"10TiB/depth=64", 10 << 40, 64},
}

// BenchmarkClone and BenchmarkSnapshot show that the cost follows neither size nor
// depth: go test -bench 'Clone|Snapshot' ./pkg/store/layered.
func BenchmarkClone(b *testing.B) {
	for _, c := range costCases {
		b.Run(c.name, func(b *testing.B) { benchCost(b, newCostRig(b, c.size, c.depth), (*costRig).cloneOnce) })
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, c := range costCases {
		b.Run(c.name, func(b *testing.B) {
			r := newCostRig(b, c.size, c.depth)
			dev, err := r.st.Open(b.Context(), r.image.ID)
			r.must(err)
			defer dev.Close()
			benchCost(b, r, func(r *costRig) {
				_, err := dev.WriteAt(pattern(4096, 1), 0)
				r.must(err)
				r.snapshotOnce()
			})
		})
	}
}

func benchCost(b *testing.B, r *costRig, op func(*costRig)) {
	op(r) // reserves layer ids
	cat, files := r.syncs()
	b.ResetTimer()
	for b.Loop() {
		op(r)
	}
	b.StopTimer()
	catNow, filesNow := r.syncs()
	b.ReportMetric(float64(catNow-cat)/float64(b.N), "catalogue-syncs/op")
	b.ReportMetric(float64(filesNow-files)/float64(b.N), "file-syncs/op")
}

// TestCostIsFlat proves what the benchmarks show, by counting syncs instead of time,
// and prints the table.
func TestCostIsFlat(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-16s %14s %6s %6s   %14s %6s %6s\n", "", "clone", "cat", "files", "snapshot", "cat", "files")
	var first [4]int64
	for k, c := range costCases {
		r := newCostRig(t, c.size, c.depth)
		dev, err := r.st.Open(r.ctx, r.image.ID)
		r.must(err)
		cloneTime, cloneCat, cloneFiles := r.median((*costRig).cloneOnce)
		snapTime, snapCat, snapFiles := r.median(func(r *costRig) {
			_, err := dev.WriteAt(pattern(4096, 1), 0)
			r.must(err)
			r.snapshotOnce()
		})
		r.must(dev.Close())
		fmt.Fprintf(&table, "%-16s %14v %6d %6d   %14v %6d %6d\n", c.name, cloneTime, cloneCat, cloneFiles, snapTime, snapCat, snapFiles)
		got := [4]int64{cloneCat, cloneFiles, snapCat, snapFiles}
		if k == 0 {
			first = got
		}
		if got != first {
			t.Errorf("%s: catalogue and file syncs of clone and snapshot are %v, of the smallest image %v", c.name, got, first)
		}
		if cloneCat > 2 || snapCat > 2 {
			t.Errorf("%s: %d and %d catalogue syncs, want 2 at most", c.name, cloneCat, snapCat)
		}
	}
	t.Log(table.String())
}

// median measures an operation several times. The syncs count what it leaves to be
// done behind it, too. They are the least seen: the catalogue's file grows now and
// then.
func (r *costRig) median(op func(*costRig)) (took time.Duration, catalogue, files int64) {
	op(r)
	var times []time.Duration
	catalogue, files = 1<<62, 1<<62
	for range 15 {
		r.idle()
		cat, fs := r.syncs()
		began := time.Now()
		op(r)
		times = append(times, time.Since(began))
		r.st.WaitTidy()
		catNow, fsNow := r.syncs()
		catalogue, files = min(catalogue, catNow-cat), min(files, fsNow-fs)
	}
	slices.Sort(times)
	return times[len(times)/2].Round(time.Microsecond), catalogue, files
}
