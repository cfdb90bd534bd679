package layer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// headerWatch checks the order of changes of one map file, over many processes:
// nothing may count on a header before it is durable.
type headerWatch struct {
	mu     sync.Mutex
	file   vfs.File // to look at what was written
	half   int64
	gen    uint64 // generation that the last durable header names
	slot   int64  // of the last header written
	synced bool   // that one is durable
	begun  []int64
	broken error
}

// see is told of each change before it is made.
func (w *headerWatch) see(op vfs.Op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.check()
	switch slot := op.Offset / headerSize; {
	case op.Kind == vfs.OpSync:
		h, _, err := readHeader(w.file, testID)
		w.gen, w.synced, w.broken = h.gen, true, errors.Join(w.broken, err)
	case op.Kind != vfs.OpWrite:
	case slot < 2:
		if !w.synced || slot == w.slot {
			w.broken = fmt.Errorf("header slot %d written while slot %d is not known to be durable", slot, w.slot)
		}
		w.slot, w.synced = slot, false
	case op.Offset == halfOffset(w.half, 0) || op.Offset == halfOffset(w.half, 1):
		w.begun = append(w.begun, op.Offset)
	}
	return nil
}

// check looks at the first records of generations that were begun since.
func (w *headerWatch) check() {
	for _, off := range w.begun {
		var b [recordSize]byte
		if err := readFull(w.file, b[:], off); err != nil {
			w.broken = err
		}
		if gen := uint64(recordGen(b[:])); gen > w.gen+1 {
			w.broken = fmt.Errorf("generation %d begins while the durable header names %d", gen, w.gen)
		}
	}
	w.begun = nil
}

// TestNothingCountsOnAHeaderThatIsNotDurable runs random work through crashes of
// the process, and watches each header write and each begin of a generation.
func TestNothingCountsOnAHeaderThatIsNotDurable(t *testing.T) {
	for _, seed := range seeds(t, 3) {
		rng := newRand(t, seed)
		mem := vfs.NewMem()
		env := testEnv(t, mem, minHalf)
		mustCreate(t, env).Abandon()
		w := &headerWatch{half: minHalf, synced: true, gen: 1}
		for range 30 {
			var k atomic.Int64
			crash := rng.Int64N(100)
			faulty := vfs.NewFaulty(mem, vfs.OnKind(vfs.Mutating, func(op vfs.Op) error {
				if k.Add(1) > crash {
					return vfs.ErrCrashed
				}
				if op.Path == env.MapPath(testID) {
					return w.see(op)
				}
				return nil
			}))
			var err error
			w.file, err = mem.OpenFile(env.MapPath(testID), os.O_RDONLY, 0)
			must(t, err)
			l, _ := mustOpen(t, on(t, env, faulty))
			randomMarks(t, l, rng)
			faulty.Crash()
			l.Abandon()
			w.check()
			mem.ProcessCrash()
			if w.broken != nil {
				t.Fatal(w.broken)
			}
		}
	}
}

// randomMarks works until the crash: checkpoints back to back, marks right after
// them, and header changes.
func randomMarks(t *testing.T, l *Layer, rng *rand.Rand) {
	t.Helper()
	for {
		var err error
		switch rng.IntN(8) {
		case 0, 1:
			err = l.Checkpoint()
		case 2:
			err = l.Rewrite(func(id *Identity) { id.Size++ })
		case 3:
			err = l.MarkClean()
		case 4:
			err = l.updateHeader(func(*header) {})
		default:
			err = l.Mark(rng.Int64N(1000), 1, State(rng.IntN(3)))
		}
		switch {
		case errors.Is(err, vfs.ErrCrashed), errors.Is(err, store.ErrReadOnly):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}

// A process that ended between writing and syncing the header that its first write
// needs leaves a header that looks right and may vanish.
func TestHeaderOfFirstWriteIsSyncedAgainAfterProcessCrash(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("page cache lost before %v", lost), func(t *testing.T) {
			mem := vfs.NewMem()
			env := testEnv(t, mem, bigHalf)
			l := mustCreate(t, env)
			write(t, l, 1, 1, 1)
			if lost {
				must(t, l.Flush())
				mem = mem.PowerCut(nil)
			} else {
				must(t, l.MarkClean())
			}
			l.Abandon()
			last := int64(0) // sync of the map before the first write
			if lost {
				last = 1 // the first one is for pages
			}
			faulty := vfs.NewFaulty(mem, vfs.OnKind(vfs.OpSync, vfs.FromIndex(last, vfs.ErrCrashed)))
			l, _ = mustOpen(t, on(t, env, faulty))
			if err := l.Mark(2, 1, Zero); !errors.Is(err, vfs.ErrCrashed) {
				t.Fatalf("mark: %v, want the crash", err)
			}
			l, _ = crashProcess(t, mem, l, env)
			gen := l.Stats().Generation
			write(t, l, 3, 1, 1)
			_, _, l, rec := cutPower(t, mem, env, nil)
			if !rec.Lost || rec.Clean || l.hdr.gen != gen {
				t.Fatalf("recovery %+v, generation %d, want %d", rec, l.hdr.gen, gen)
			}
			wantState(t, l, 1, Data)
		})
	}
}

// While an earlier checkpoint has not been able to free its generation, both halves
// are in use and no further one may begin.
func TestFailedCheckpointsKeepBothGenerations(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.map", vfs.OnKind(vfs.OpWrite, func(op vfs.Op) error {
		if op.Offset >= pageOffset(bigHalf, 0) {
			return syscall.EIO
		}
		return nil
	})))
	env := testEnv(t, faulty, bigHalf)
	l := mustCreate(t, env)
	for b := range int64(6) {
		write(t, l, b, 1, 1)
		if err := l.Checkpoint(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("checkpoint: %v, want EIO", err)
		}
	}
	write(t, l, 6, 1, 1)
	l, _ = crashProcess(t, mem, l, env)
	for b := range int64(7) {
		wantState(t, l, b, Data)
	}
	must(t, l.Checkpoint())
	must(t, l.Checkpoint())
	_, _, l, _ = cutPower(t, mem, env, nil)
	for b := range int64(7) {
		wantState(t, l, b, Data)
	}
}

// A clean layer names the last record there must be.
func TestCleanLayerWithoutItsLastRecordIsRefused(t *testing.T) {
	for _, newCache := range []bool{false, true} {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		l := mustCreate(t, env)
		write(t, l, 1, 1, 1)
		write(t, l, 2, 1, 1)
		must(t, l.MarkClean())
		l.Abandon()
		poke(t, mem, env.MapPath(testID), halfOffset(bigHalf, 1)+recordSize, flip)
		if newCache {
			mem = mem.PowerCut(nil)
		}
		if _, _, err := Open(on(t, env, mem), testID); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("new cache %v: %v, want ErrCorrupt", newCache, err)
		}
	}
}

func TestChainsDifferByLayerAndGeneration(t *testing.T) {
	if chainSeed(1, 1) == chainSeed(1, 2) || chainSeed(1, 1) == chainSeed(2, 1) || chainSeed(1, 2) == chainSeed(2, 1) {
		t.Fatal("two chains begin alike")
	}
}

// Were a mark appended although the clean mark stands, it is not believed without
// the page cache it went through.
func TestRecordsBeyondACleanMarkAreNotBelieved(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.MarkClean())
	l.ready.Store(true)
	must(t, l.Mark(2, 1, Data))
	must(t, l.mapf.Sync())
	_, _, l, rec := cutPower(t, mem, env, nil)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
	if !rec.Lost || rec.Discarded != 1 {
		t.Fatalf("recovery %+v", rec)
	}
}

// hooked is a file system that calls after when a sync of a map file has ended.
type hooked struct {
	vfs.FS
	after func()
}

func (h hooked) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := h.FS.OpenFile(name, flag, perm)
	if _, ok := ParseName(name[len("/layers/"):]); ok && name[len(name)-4:] == mapSuffix {
		return hookedFile{f, h.after}, err
	}
	return f, err
}

type hookedFile struct {
	vfs.File
	after func()
}

func (h hookedFile) Sync() error {
	err := h.File.Sync()
	h.after()
	return err
}

func TestSyncDoesNotVouchForAHeaderWrittenAfterIt(t *testing.T) {
	var l *Layer
	armed := false
	env := testEnv(t, hooked{vfs.NewMem(), func() {
		if armed {
			armed = false
			must(t, l.updateHeader(func(h *header) { h.id.Size = 5 }))
		}
	}}, bigHalf)
	l = mustCreate(t, env)
	write(t, l, 1, 1, 1)
	armed = true
	must(t, l.Flush())
	if armed || l.hdrDurable.Load() == l.hdrWritten.Load() {
		t.Fatalf("header %d counts as durable, hook ran %v", l.hdrDurable.Load(), !armed)
	}
}
