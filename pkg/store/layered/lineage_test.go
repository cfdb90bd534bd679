package layered_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
)

// rig is a store with the calls that tests repeat; every call fails the test on error.
type rig struct {
	testing.TB
	ctx context.Context
	st  *layered.Store
	dir string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	o := testOptions(t)
	o.NoCatalogueSync = true
	st, err := layered.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	r := &rig{t, ctx, st, dir}
	t.Cleanup(func() {
		defer cancel()
		r.idle()
		problems, err := r.st.Check(ctx, true)
		r.must(err)
		for _, p := range problems {
			t.Errorf("check: %+v", p)
		}
		r.must(r.st.Close())
	})
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) create(name string, size int64) store.Info {
	r.Helper()
	i, err := r.st.Create(r.ctx, store.Spec{Name: name, Size: size})
	r.must(err)
	return i
}

func (r *rig) clone(parent store.ID, name string) store.Info {
	r.Helper()
	i, err := r.st.Create(r.ctx, store.Spec{Name: name, Parent: parent})
	r.must(err)
	return i
}

func (r *rig) snap(image store.ID, name string) store.Info {
	r.Helper()
	i, err := r.st.Snapshot(r.ctx, image, name)
	r.must(err)
	return i
}

func (r *rig) remove(id store.ID) {
	r.Helper()
	r.must(r.st.Remove(r.ctx, id))
}

func (r *rig) stat(id store.ID) store.Info {
	r.Helper()
	i, err := r.st.Stat(r.ctx, id)
	r.must(err)
	return i
}

func (r *rig) idle() {
	r.Helper()
	r.must(r.st.Idle(r.ctx))
}

// write fills a range with bytes that follow from a seed.
func (r *rig) write(id store.ID, off, n int64, seed uint64) {
	r.Helper()
	dev, err := r.st.Open(r.ctx, id)
	r.must(err)
	_, err = dev.WriteAt(pattern(n, seed), off)
	r.must(err)
	r.must(dev.Flush())
	r.must(dev.Close())
}

func (r *rig) read(id store.ID, off, n int64) []byte {
	r.Helper()
	dev, err := r.st.Open(r.ctx, id)
	r.must(err)
	p := make([]byte, n)
	_, err = dev.ReadAt(p, off)
	r.must(err)
	r.must(dev.Close())
	return p
}

func (r *rig) status() store.Status {
	r.Helper()
	s, err := r.st.Status(r.ctx)
	r.must(err)
	return s
}

func (r *rig) files() int {
	r.Helper()
	names, err := os.ReadDir(filepath.Join(r.dir, "layers"))
	r.must(err)
	return len(names)
}

func pattern(n int64, seed uint64) []byte {
	p := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	src.Read(p)
	return p
}

const mib = 1 << 20

// The chain that Cinder counts as 0: volume → snapshot → volume, seven times.
func TestSevenLinksCountSeven(t *testing.T) {
	r := newRig(t)
	i := r.create("v0", mib)
	for n := 1; n <= 7; n++ {
		r.write(i.ID, 0, 4096, uint64(n))
		i = r.clone(r.snap(i.ID, "s").ID, fmt.Sprintf("v%d", n))
	}
	if i.Depth != 7 {
		t.Errorf("seven links count %d", i.Depth)
	}
}

// scaled is how many rounds a test takes; the race detector's run takes a tenth.
func scaled(full int) int {
	if testing.Short() {
		return full / 10
	}
	return full
}

// 1,000 rounds of restore → snapshot → delete the parent, as backup tools do.
func TestThousandRoundsOfRestore(t *testing.T) {
	r := newRig(t)
	const size, soft = 4 * mib, 8
	v := r.create("v0", size)
	r.write(v.ID, 0, size, 1)
	want := r.read(v.ID, 0, size)
	s := r.snap(v.ID, "s")
	for n := 1; n <= scaled(1000); n++ {
		next := r.clone(s.ID, fmt.Sprintf("v%d", n))
		if next.Depth > soft {
			r.idle()
			if d := r.stat(next.ID).Depth; d > soft {
				t.Fatalf("round %d: depth %d exceeds the soft limit", n, d)
			}
		}
		off := int64(n%64) * 65536
		r.write(next.ID, off, 8192, uint64(n))
		copy(want[off:], pattern(8192, uint64(n)))
		newer := r.snap(next.ID, "s")
		r.remove(s.ID)
		r.remove(v.ID)
		v, s = next, newer
	}
	r.idle()
	if got := r.read(v.ID, 0, size); !bytes.Equal(got, want) {
		t.Error("the content is not what was written")
	}
	now := r.status()
	// One image and one snapshot: the head, the snapshot's layer, one spare.
	if now.Layers > 3 || r.files() > 2*now.Layers {
		t.Errorf("one image and one snapshot take %d layers and %d files", now.Layers, r.files())
	}
	catalogue, err := os.Stat(filepath.Join(r.dir, "catalogue.db"))
	r.must(err)
	if catalogue.Size() > mib || len(now.Jobs) > 0 {
		t.Errorf("the catalogue has grown to %d bytes, with %d jobs", catalogue.Size(), len(now.Jobs))
	}
	t.Logf("after the rounds: %d layers, %d files, depth %d, copied %d bytes", now.Layers, r.files(), r.stat(v.ID).Depth, now.Copied)
}

// A hundred clones of one image at the soft limit cost one flatten.
func TestHundredClonesCostOneFlatten(t *testing.T) {
	r := newRig(t)
	const size = 8 * mib
	i := r.create("g0", size)
	r.write(i.ID, 0, size, 1)
	for n := 1; n <= 8; n++ {
		i = r.clone(r.snap(i.ID, "s").ID, fmt.Sprintf("g%d", n))
		r.write(i.ID, int64(n)*65536, 65536, uint64(n))
	}
	r.idle()
	if i = r.stat(i.ID); i.Depth != 8 {
		t.Fatalf("the golden image is at depth %d, want the soft limit", i.Depth)
	}
	want := r.read(i.ID, 0, size)
	before := r.status().Copied
	clones := make([]store.Info, 100)
	for n := range clones {
		clones[n] = r.clone(i.ID, fmt.Sprintf("c%d", n))
	}
	r.idle()
	copied := r.status().Copied - before
	for _, c := range clones {
		if d := r.stat(c.ID).Depth; d > 8 {
			t.Errorf("%s is at depth %d", c.Name, d)
		}
	}
	if !bytes.Equal(r.read(clones[99].ID, 0, size), want) {
		t.Error("a clone differs from the golden image")
	}
	if copied > size*11/10 {
		t.Errorf("100 clones copied %d bytes, the image has %d", copied, size)
	}
	t.Logf("100 clones: %d bytes copied, the image has %d", copied, size)
}

// 200 rounds of snapshot, change 1 %, delete the oldest.
func TestRollingSnapshotsCopyLittle(t *testing.T) {
	r := newRig(t)
	const size, keep = 16 * mib, 7
	i := r.create("v", size)
	r.write(i.ID, 0, size, 1)
	want := r.read(i.ID, 0, size)
	var snaps []store.Info
	var written int64
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range scaled(200) {
		snaps = append(snaps, r.snap(i.ID, fmt.Sprintf("s%d", n)))
		for range 40 { // 40 blocks are 1 % of 16 MiB
			off := rng.Int64N(size/4096) * 4096
			r.write(i.ID, off, 4096, uint64(n))
			copy(want[off:], pattern(4096, uint64(n)))
			written += 4096
		}
		if len(snaps) > keep {
			r.remove(snaps[0].ID)
			snaps = snaps[1:]
		}
	}
	r.idle()
	if !bytes.Equal(r.read(i.ID, 0, size), want) {
		t.Error("the content is not what was written")
	}
	s := r.status()
	if s.Copied > 2*written {
		t.Errorf("%d bytes copied for %d written", s.Copied, written)
	}
	if s.Layers > keep+2 {
		t.Errorf("%d layers for %d snapshots", s.Layers, keep)
	}
	t.Logf("written %d, copied %d, layers %d", written, s.Copied, s.Layers)
}
