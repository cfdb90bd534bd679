package layer

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// TestFaultAtEveryChange fails the k-th change of the disk once. The error
// surfaces where it happens, work goes on unless it was a sync, and what is found
// after a crash follows the model.
func TestFaultAtEveryChange(t *testing.T) {
	seed := seeds(t, 1)[0]
	newRand(t, seed)
	run := func(inject vfs.Injector) (surfaced, poisoned bool) {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		mustCreate(t, env).Abandon()
		l, _ := mustOpen(t, on(t, env, vfs.NewFaulty(mem, inject)))
		m, rng := newModel(), rand.New(rand.NewPCG(seed, 5))
		for range 50 {
			err := m.step(l, rng)
			switch {
			case errors.Is(err, store.ErrReadOnly):
				surfaced, poisoned = surfaced || errors.Is(err, syscall.EIO), true
				m.adopt(t, l, false)
			case errors.Is(err, syscall.EIO):
				surfaced = true
				m.adopt(t, l, false)
			case err != nil:
				t.Fatal(err)
			}
		}
		mem.ProcessCrash()
		l.Abandon()
		l, rec := mustOpen(t, on(t, env, mem))
		if (rec.Poison != "") != poisoned {
			t.Fatalf("poisoned %v, recovery %+v", poisoned, rec)
		}
		m.adopt(t, l, poisoned) // a failed sync counts as a loss of the page cache
		wantSound(t, l)
		l.Abandon()
		return surfaced, poisoned
	}
	var total atomic.Int64
	run(vfs.OnKind(vfs.Mutating, vfs.CountTo(&total)))
	quiet := 0
	for k := range total.Load() {
		surfaced, _ := run(vfs.OnKind(vfs.Mutating, vfs.AtIndex(k, syscall.EIO)))
		if !surfaced {
			quiet++ // a hole that could not be punched in a dead journal, at most
			t.Logf("change %d failed without an error", k)
		}
	}
	if quiet > 0 {
		t.Fatalf("%d of %d faults did not surface", quiet, total.Load())
	}
}

func TestFullDiskIsNoSpaceAndHarmless(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, minHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Checkpoint())
	total, free, err := mem.Space("/")
	must(t, err)
	mem.SetCapacity(total - free)
	if err := l.WriteData(pattern(9, 1, 1), 9*BlockSize); !errors.Is(err, store.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write: %v, want ErrNoSpace", err)
	}
	var failed error
	done := int64(0)
	for ; done < 1000 && failed == nil; done++ {
		failed = l.Mark(6*pageBlocks+2*done, 1, Zero) // a page that needs new space at the checkpoint
	}
	if !errors.Is(failed, store.ErrNoSpace) {
		t.Fatalf("mark: %v, want ErrNoSpace", failed)
	}
	if l.Poisoned() != "" {
		t.Fatalf("poisoned: %s", l.Poisoned())
	}
	wantState(t, l, 1, Data)
	must(t, l.WriteData(pattern(1, 1, 2), BlockSize)) // overwriting goes on
	mem.SetCapacity(total)
	must(t, l.Mark(9, 1, Zero))
	must(t, l.Close())
	l, _ = mustOpen(t, env)
	wantState(t, l, 9, Zero)
	for i := range done - 1 {
		wantState(t, l, 6*pageBlocks+2*i, Zero)
	}
	wantSound(t, l)
}

// halfWritten is a file system whose map file once writes everything it is given
// and then says that it failed.
type halfWritten struct {
	vfs.FS
	fail *atomic.Bool
}

func (h halfWritten) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := h.FS.OpenFile(name, flag, perm)
	return halfFile{f, h.fail}, err
}

type halfFile struct {
	vfs.File
	fail *atomic.Bool
}

func (h halfFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := h.File.WriteAt(p, off)
	if h.fail.CompareAndSwap(true, false) {
		return 0, syscall.EIO
	}
	return n, err
}

// What a failed append left in the file must neither be replayed behind later
// records, nor be taken for proof of damage.
func TestRemainsOfAFailedAppendAreNotReplayed(t *testing.T) {
	mem := vfs.NewMem()
	fail := new(atomic.Bool)
	env := testEnv(t, halfWritten{mem, fail}, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	runs := []Run{{10, 1, Zero}, {20, 1, Zero}, {30, 1, Zero}, {40, 1, Zero}}
	fail.Store(true)
	if err := l.Marks(runs); !errors.Is(err, syscall.EIO) {
		t.Fatalf("marks: %v, want EIO", err)
	}
	for _, r := range runs {
		wantState(t, l, r.Block, Absent)
	}
	must(t, l.Mark(10, 1, Zero)) // the first again: only the rest could follow on it
	l, _ = crashProcess(t, mem, l, env)
	wantState(t, l, 10, Zero)
	for _, r := range runs[1:] {
		wantState(t, l, r.Block, Absent)
	}
	must(t, l.Mark(20, 1, Data))
	l, _ = crashProcess(t, mem, l, env)
	wantState(t, l, 20, Data)
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for k := range int64(6) {
		mem := vfs.NewMem()
		env := testEnv(t, mem, minHalf)
		e := on(t, env, vfs.NewFaulty(mem, vfs.OnKind(vfs.Mutating, vfs.AtIndex(k, syscall.EIO))))
		_, err := Create(e, Identity{ID: testID})
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("change %d: %v, want EIO", k, err)
		}
		if names, _ := mem.List("/layers"); len(names) != 0 || mem.OpenCount() != 0 {
			t.Fatalf("change %d left %v and %d open files", k, names, mem.OpenCount())
		}
	}
}

func TestBackgroundCheckpointFailureIsNotRepeatedForEachWrite(t *testing.T) {
	mem := vfs.NewMem()
	var tries atomic.Int64
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.map", vfs.OnKind(vfs.OpWrite, func(op vfs.Op) error {
		if op.Offset >= pageOffset(bigHalf, 0) {
			tries.Add(1)
			return syscall.EIO
		}
		return nil
	})))
	env := testEnv(t, faulty, bigHalf)
	env.MaxDirty = 4
	l := mustCreate(t, env)
	for no := range int64(8) {
		must(t, l.Mark(no*pageBlocks, 1, Zero))
	}
	l.stopBackground()
	if n := tries.Load(); n != 1 {
		t.Fatalf("%d background attempts, want 1", n)
	}
}
