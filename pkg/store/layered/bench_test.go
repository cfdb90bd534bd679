package layered_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// costImages is how many images every costRig has, each with a snapshot: the catalogue
// is as large at depth 1 as at depth 64.
const costImages = 65

// costRig is a store whose syncs are counted, with an image of some size over a chain
// of clone links.
type costRig struct {
	*rig
	fs    *vfs.Counting
	image store.Info
	snap  store.Info
	n     int
}

func newCostRig(t testing.TB, dir string, size int64, depth int) *costRig {
	t.Helper()
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
	for n := range costImages {
		name := fmt.Sprintf("v%d", n)
		if n < costImages-depth { // the last of these is the root, others stand by
			r.image = r.create(name, size)
		} else {
			r.image = r.clone(r.snap.ID, name)
		}
		r.write(r.image.ID, 0, 4096, uint64(n))
		r.snap = r.rig.snap(r.image.ID, "s")
	}
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

// TestCostIsFlat proves by counting syncs, which no other load on the machine changes,
// what BenchmarkCostIsFlat shows in time.
func TestCostIsFlat(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "syncs of catalogue and files\n%-16s %10s %10s\n", "", "clone", "snapshot")
	var first [4]int64
	for k, c := range costCases {
		r := newCostRig(t, t.TempDir(), c.size, c.depth)
		dev, err := r.st.Open(r.ctx, r.image.ID)
		r.must(err)
		cloneCat, cloneFiles := r.least((*costRig).cloneOnce)
		snapCat, snapFiles := r.least(func(r *costRig) {
			_, err := dev.WriteAt(pattern(4096, 1), 0)
			r.must(err)
			r.snapshotOnce()
		})
		r.must(dev.Close())
		fmt.Fprintf(&table, "%-16s %5d %4d %5d %4d\n", c.name, cloneCat, cloneFiles, snapCat, snapFiles)
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

// least counts an operation's syncs several times, with what it leaves to be done
// behind it, and answers the least: the catalogue's file grows now and then.
func (r *costRig) least(op func(*costRig)) (catalogue, files int64) {
	op(r)
	catalogue, files = 1<<62, 1<<62
	for range 15 {
		r.idle()
		cat, fs := r.syncs()
		op(r)
		r.st.WaitTidy()
		catNow, fsNow := r.syncs()
		catalogue, files = min(catalogue, catNow-cat), min(files, fsNow-fs)
	}
	return catalogue, files
}
