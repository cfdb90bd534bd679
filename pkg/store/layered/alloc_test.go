package layered_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/storetest"
	"github.com/strata-csi/strata/pkg/vfs"
)

const kib = 1 << 10

// Space is taken by the unit while an image is written, exactly once it is sealed.
func TestAllocationUnit(t *testing.T) {
	var counted *vfs.Counting
	l := newLab(t, func(o *layered.Options) {
		counted = vfs.NewCounting(o.FS)
		o.FS, o.AllocUnit = counted, 256*kib
	})
	var i store.Info
	head := l.made(func() { i = l.create("image", 4*mib+4*kib) })
	want := make([]byte, 4*mib+4*kib)
	put := func(off, n int64, seed uint64) {
		l.write(i.ID, off, n, seed)
		copy(want[off:], pattern(n, seed))
	}
	taken := func(units, others int64) {
		t.Helper()
		if got := l.allocated(head[0]); got != units*256*kib+others {
			t.Errorf("the data file takes %d KiB, want %d units and %d KiB", got/kib, units, others/kib)
		}
	}
	for n := int64(0); n < 10; n++ { // ten blocks of two units
		put(512*kib+n*8*kib, 4*kib, uint64(n))
	}
	put(512*kib+250*kib, 10*kib, 20) // within blocks, over the edge of two units
	taken(2, 0)
	if n := counted.Ops(vfs.OpAllocate); n != 2 {
		t.Errorf("space was taken %d times", n)
	}
	put(mib, 512*kib, 30) // whole units need no help
	taken(4, 0)
	put(4*mib, 4*kib, 31) // the last unit ends with the image
	taken(4, 4*kib)
	if n := counted.Ops(vfs.OpAllocate); n != 2 {
		t.Errorf("space was taken %d times", n)
	}
	l.want(i.ID, "the image", want)
	l.snap(i.ID, "s")
	l.idle()
	if got, data := l.allocated(head[0]), int64(10+3+128+1)*4*kib; got > data {
		t.Errorf("the sealed layer takes %d KiB for %d KiB of data", got/kib, data/kib)
	}
	l.want(i.ID, "the image after its snapshot", want)
	l.clean()
	l.powerCut(nil)
	l.start()
	l.want(i.ID, "the image after a power cut", want)
	l.clean()
}

// allocated is what the data file of a layer takes on the disk.
func (l *lab) allocated(layer string) (n int64) {
	l.Helper()
	l.edit(layer+".data", func(f vfs.File) (err error) {
		n, err = f.Allocated()
		return err
	})
	return n
}

// Where there is no space for a unit there may be for a block.
func TestAllocationUnitOnAFullDisk(t *testing.T) {
	l := newLab(t, func(o *layered.Options) { o.AllocUnit = mib })
	i := l.create("image", 8*mib)
	l.write(i.ID, 0, 4*kib, 1)
	total, free, err := l.mem.Space("/")
	l.must(err)
	l.mem.SetCapacity(total - free + 64*kib)
	dev, err := l.st.Open(l.ctx, i.ID)
	l.must(err)
	for n := int64(0); n < 4; n++ {
		if _, err := dev.WriteAt(pattern(4*kib, 2), mib+n*mib); err != nil {
			t.Fatalf("write %d on a nearly full disk: %v", n, err)
		}
	}
	var full error
	for n := int64(1); n < 100 && full == nil; n++ {
		_, full = dev.WriteAt(pattern(4*kib, 2), 5*mib+n*8*kib)
	}
	l.failed(full, store.ErrNoSpace)
	l.mem.SetCapacity(total)
	l.must(dev.Close())
	if got := l.read(i.ID, mib, 4*kib); string(got) != string(pattern(4*kib, 2)) {
		t.Error("what was written is not there")
	}
	l.clean()
}

// A crash between the seal and the trim leaves it to the next start.
func TestSlackGoesAfterACrash(t *testing.T) {
	l := newLab(t, func(o *layered.Options) { o.AllocUnit = mib })
	var i store.Info
	head := l.made(func() { i = l.create("image", 8*mib) })
	l.write(i.ID, 0, 4*kib, 1)
	l.write(i.ID, 4*mib, 4*kib, 2)
	l.fail(vfs.OnKind(vfs.OpPunch, vfs.Always(vfs.ErrCrashed)))
	l.snap(i.ID, "s")
	l.crash()
	l.fail(nil)
	if got := l.allocated(head[0]); got != 2*mib {
		t.Fatalf("before the trim the layer takes %d KiB", got/kib)
	}
	l.start()
	l.idle()
	if got := l.allocated(head[0]); got != 8*kib {
		t.Errorf("after it, %d KiB", got/kib)
	}
	l.clean()
}

// A real file system takes whole units and gives the slack back, at the end of the
// file, too.
func TestAllocationUnitOnDisk(t *testing.T) {
	dir := directDir(t)
	st, err := layered.Open(dir, layered.Options{Reserve: -1, AllocUnit: mib})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := &rig{t, t.Context(), st, dir}
	i := r.create("image", 64*mib)
	rng := rand.New(rand.NewPCG(1, 1))
	blocks := map[int64]bool{}
	for range 40 {
		at := rng.Int64N(32) * 4 * kib * 8
		r.write(i.ID, at, 4*kib, 1)
		blocks[at] = true
	}
	biggest := func() (bytes int64) {
		files, err := filepath.Glob(filepath.Join(dir, "layers", "*.data"))
		r.must(err)
		for _, name := range files {
			info, err := os.Stat(name)
			r.must(err)
			bytes = max(bytes, info.Sys().(*syscall.Stat_t).Blocks*512)
		}
		return bytes
	}
	if got := biggest(); got < mib {
		t.Skipf("the file system of the temporary directory does not allocate 1 MiB at once (it took %d KiB), so there is nothing to compare", got/kib)
	}
	r.snap(i.ID, "s")
	r.idle()
	if got, data := biggest(), int64(len(blocks))*4*kib; got > data+16*kib {
		t.Errorf("the sealed layer takes %d KiB for %d KiB of data", got/kib, data/kib)
	}
	for at := range blocks {
		if string(r.read(i.ID, at, 4*kib)) != string(pattern(4*kib, 1)) {
			t.Errorf("the block at %d is not what was written", at)
		}
	}
	r.clean()
}

func TestAllocationUnitIsChecked(t *testing.T) {
	dir := directDir(t)
	for _, unit := range []int64{-1, 1, 512, 12 * kib, 2 * mib} {
		st, err := layered.Open(dir, layered.Options{AllocUnit: unit})
		if err == nil {
			st.Close()
			t.Errorf("a unit of %d bytes is taken", unit)
			continue
		}
		(&rig{t, t.Context(), nil, dir}).failed(err, store.ErrInvalid, "allocation unit")
	}
}

// inUnits are options that use units, and have checksums computed at once.
func inUnits(o *layered.Options) { o.AllocUnit, o.SumAfter = 64*kib, time.Millisecond }

func TestAllocationUnitConformance(t *testing.T) {
	dirs := map[store.Full]string{}
	reopen := func(t *testing.T, dir string) store.Full {
		o := testOptions(t)
		inUnits(&o)
		st, err := layered.Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		dirs[st] = dir
		return st
	}
	storetest.Run(t, func(t *testing.T) store.Full {
		st, dir := newStore(t)
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		return reopen(t, dir)
	}, storetest.Limits{
		CoarseUsage: true,
		Reopen: func(t *testing.T, s store.Full) store.Full {
			if err := s.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			return reopen(t, dirs[s])
		},
	})
}

func TestAllocationUnitModel(t *testing.T) {
	storetest.Model(t, func(t *testing.T) storetest.Machine {
		m := newMachine(t).(*machine)
		m.tune = inUnits
		return m
	}, storetest.Options{Seeds: 5})
}

func TestAllocationUnitCrashAtEveryChange(t *testing.T) {
	tuned := func(t *testing.T) storetest.Disk {
		d := newDisk(t).(*disk)
		d.tune = inUnits
		return d
	}
	stride := int64(3)
	if testing.Short() {
		stride = 11
	}
	storetest.CrashLoop(t, tuned, storetest.LoopOptions{Programs: 1, Stride: stride})
	storetest.FaultLoop(t, tuned, storetest.LoopOptions{Programs: 1, Stride: stride})
}

// Layers may go at any moment of their trim.
func TestSlackOfLayersThatGo(t *testing.T) {
	l := newLab(t, inUnits)
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	for n := range rounds {
		i := l.create("image", mib)
		l.write(i.ID, 0, 4*kib, uint64(n))
		s := l.snap(i.ID, "s")
		l.must(l.st.Remove(l.ctx, i.ID))
		l.must(l.st.Remove(l.ctx, s.ID))
	}
	l.idle()
	jobs, err := l.st.Jobs(l.ctx)
	l.must(err)
	for _, j := range jobs {
		t.Errorf("left: %+v", j)
	}
	l.clean()
}
