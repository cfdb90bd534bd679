package layer

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// filler fills a layer as background work does: data, sync, marks, sync. What fails is
// done again after a Restore.
type filler struct {
	t       *testing.T
	mem     *vfs.Mem
	env     *Env
	l       *Layer
	durable map[int64]bool // blocks of batches that were answered for
	healed  int
}

func newFiller(t *testing.T, mem *vfs.Mem, fs vfs.FS, env *Env) *filler {
	f := &filler{t: t, mem: mem, env: on(t, env, fs), durable: map[int64]bool{}}
	f.l, _ = mustOpen(t, f.env)
	return f
}

// batch fills some runs.
func (f *filler) batch(runs []Run) error {
	for _, r := range runs {
		if err := f.l.WriteData(pattern(r.Block, r.Count, 1), r.Block*BlockSize); err != nil {
			return err
		}
	}
	if err := f.l.Flush(); err != nil {
		return err
	}
	if err := f.l.Marks(runs); err != nil {
		return err
	}
	return f.l.Flush()
}

// insist does a batch until it is done. With reopen set the layer is closed and opened
// between the failure and the Restore.
func (f *filler) insist(runs []Run, reopen bool) {
	f.t.Helper()
	for try := 0; ; try++ {
		err := f.batch(runs)
		if err == nil {
			break
		}
		if try > 20 {
			f.t.Fatalf("still failing: %v", err)
		}
		if f.l.Poisoned() == "" {
			continue // not a sync
		}
		if reopen {
			f.l.Abandon()
			f.l, _ = mustOpen(f.t, f.env)
		}
		if f.l.Restore() == nil {
			f.healed++
			f.check()
		}
	}
	for _, r := range runs {
		for b := range r.Count {
			f.durable[r.Block+b] = true
		}
	}
}

// check requires that what was answered for is there and that nothing else is wrong.
func (f *filler) check() {
	f.t.Helper()
	for b := range f.durable {
		wantState(f.t, f.l, b, Data)
		if v := versions(f.t, f.l, b); v != [8]uint64{1, 1, 1, 1, 1, 1, 1, 1} {
			f.t.Fatalf("block %d holds %v", b, v)
		}
	}
	if data, zero := f.l.Blocks(); data < int64(len(f.durable)) || zero != 0 {
		f.t.Fatalf("the layer counts %d data and %d zero blocks, %d are durable", data, zero, len(f.durable))
	}
	if data, _ := f.l.Blocks(); f.l.Poisoned() == "" && data == int64(len(f.durable)) {
		wantSound(f.t, f.l)
	}
}

func (f *filler) fill(rng *rand.Rand, reopen bool) {
	f.t.Helper()
	for step := range int64(12) {
		var runs []Run
		for part := range int64(3) {
			runs = append(runs, Run{part*pageBlocks + step*20, 1 + rng.Int64N(15), Data})
		}
		f.insist(runs, reopen)
		if step%4 == 3 {
			_ = f.l.Checkpoint() // a poison it leaves is the next batch's
		}
		if step == 5 {
			_ = f.l.Rewrite(func(id *Identity) { id.Size++ })
		}
	}
}

// last closes the layer, unless it is poisoned, and looks at it after a crash, a power
// cut that keeps what rng says, and one that keeps nothing.
func (f *filler) last(rng *rand.Rand) {
	f.t.Helper()
	f.check()
	for _, r := range []*rand.Rand{nil, rng} {
		_, _, l, _ := cutPower(f.t, f.mem, f.env, r)
		g := *f
		g.l = l
		g.check()
		l.Abandon()
	}
	f.mem.ProcessCrash()
	f.l.Abandon()
	f.l, _ = mustOpen(f.t, on(f.t, f.env, f.mem))
	f.check()
	f.l.Abandon()
}

// A fault at any change of the disk keeps nobody from filling the layer for good.
func TestRestoreAfterAFaultAtEveryChange(t *testing.T) {
	seed := seeds(t, 1)[0]
	newRand(t, seed)
	run := func(inject vfs.Injector, reopen bool) int {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		mustCreate(t, env).Abandon()
		f := newFiller(t, mem, vfs.NewFaulty(mem, inject), env)
		f.fill(rand.New(rand.NewPCG(seed, 1)), reopen)
		f.last(rand.New(rand.NewPCG(seed, 2)))
		return f.healed
	}
	var total atomic.Int64
	run(vfs.OnKind(vfs.Mutating, vfs.CountTo(&total)), false)
	healed := 0
	for k := range total.Load() {
		healed += run(vfs.OnKind(vfs.Mutating, vfs.AtIndex(k, syscall.EIO)), k%2 == 0)
	}
	if healed < 10 {
		t.Errorf("%d of %d faults poisoned the layer", healed, total.Load())
	}
}

// Many syncs fail, also those by which the poison is noted and the layer restored.
func TestRestoreOnABadDisk(t *testing.T) {
	for _, seed := range seeds(t, 20) {
		rng := newRand(t, seed)
		mem := vfs.NewMem()
		env := testEnv(t, mem, minHalf)
		env.MaxDirty = 2
		mustCreate(t, env).Abandon()
		bad := vfs.OnKind(vfs.OpSync, vfs.Random(seed, 0.15, syscall.EIO))
		f := newFiller(t, mem, vfs.NewFaulty(mem, bad), env)
		f.fill(rng, rng.IntN(2) == 0)
		f.last(rng)
	}
}

// What was marked and not committed before the failed sync is forgotten, and readers
// never see a state in between.
func TestRestoreForgetsWhatWasNotCommitted(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	mustCreate(t, env).Abandon()
	var fail atomic.Bool
	faulty := vfs.NewFaulty(mem, vfs.OnKind(vfs.OpSync, func(vfs.Op) error {
		if fail.Load() {
			return syscall.EIO
		}
		return nil
	}))
	l, _ := mustOpen(t, on(t, env, faulty))
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	write(t, l, 2, 1, 1)
	if err := l.Restore(); err != nil { // not poisoned: nothing happens
		t.Fatal(err)
	}
	wantState(t, l, 2, Data)
	fail.Store(true)
	if err := l.Flush(); !errors.Is(err, store.ErrReadOnly) {
		t.Fatalf("flush: %v", err)
	}
	if err := l.Restore(); err == nil {
		t.Fatal("restored by a sync that failed")
	}
	wantState(t, l, 2, Data)
	fail.Store(false)
	must(t, l.Restore())
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
	if data, _ := l.Blocks(); data != 1 {
		t.Fatalf("%d data blocks, want 1", data)
	}
	write(t, l, 3, 1, 1)
	must(t, l.Close())
	l, rec := mustOpen(t, env)
	if rec.Poison != "" || !rec.Clean {
		t.Fatalf("recovery %+v", rec)
	}
	wantState(t, l, 2, Absent)
	wantState(t, l, 3, Data)
	wantSound(t, l)
	l.Abandon()
}
