package layer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

func TestCleanMarkIsClearedAndSyncedBeforeFirstWrite(t *testing.T) {
	for name, first := range map[string]func(*Layer) error{
		"write": func(l *Layer) error { return l.WriteData(make([]byte, 512), 0) },
		"mark":  func(l *Layer) error { return l.Mark(0, 1, Zero) },
		"punch": func(l *Layer) error { return l.Punch(0, BlockSize) },
		"clone": func(l *Layer) error {
			if err := l.CloneData(l, 0, BlockSize); !errors.Is(err, store.ErrUnsupported) {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			env := testEnv(t, mem, bigHalf)
			l := mustCreate(t, env)
			write(t, l, 1, 1, 1)
			must(t, l.MarkClean())
			if _, _, _, rec := cutPower(t, mem, env, nil); rec.Lost || !rec.Clean {
				t.Fatalf("clean, but recovery %+v", rec)
			}
			must(t, first(l))
			if _, _, _, rec := cutPower(t, mem, env, nil); !rec.Lost || rec.Clean {
				t.Fatalf("written to, but recovery %+v", rec)
			}
		})
	}
}

func TestNewLayerIsCleanUnlessActive(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	mustCreate(t, env)
	if _, _, _, rec := cutPower(t, mem, env, nil); rec.Lost {
		t.Fatalf("recovery %+v", rec)
	}
	counting := vfs.NewCounting(mem)
	l, err := CreateActive(on(t, env, counting), Identity{ID: testID + 1})
	must(t, err)
	counting.Reset()
	write(t, l, 1, 1, 1)
	if n := counting.Syncs(); n != 0 {
		t.Fatalf("first write took %d syncs", n)
	}
	_, rec, err := Open(on(t, env, mem.PowerCut(nil)), testID+1)
	must(t, err)
	if !rec.Lost {
		t.Fatalf("recovery %+v", rec)
	}
}

func TestMarkCleanRefusesWhileAWriteIsUnderWay(t *testing.T) {
	mem := vfs.NewMem()
	entered, leave := make(chan struct{}), make(chan struct{})
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.data", vfs.OnKind(vfs.OpWrite, func(op vfs.Op) error {
		if op.Offset == BlockSize {
			close(entered)
			<-leave
		}
		return nil
	})))
	env := testEnv(t, faulty, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 5, 1, 1)
	var wg sync.WaitGroup
	wg.Go(func() { l.WriteData(make([]byte, BlockSize), BlockSize) })
	<-entered
	err := l.MarkClean()
	close(leave)
	wg.Wait()
	if !errors.Is(err, store.ErrBusy) {
		t.Fatalf("mark clean: %v, want ErrBusy", err)
	}
	if _, _, _, rec := cutPower(t, mem, env, nil); rec.Clean {
		t.Fatal("clean mark with a write under way")
	}
	write(t, l, 6, 1, 1)
	must(t, l.MarkClean())
}

func TestCheckpointSyncsDataAndCommitsBeforePages(t *testing.T) {
	mem := vfs.NewMem()
	var ops []string
	faulty := vfs.NewFaulty(mem, vfs.OnKind(vfs.OpWrite|vfs.OpSync, func(op vfs.Op) error {
		ops = append(ops, classify(op))
		return nil
	}))
	env := testEnv(t, faulty, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.ensureHeader())
	ops = nil
	must(t, l.Checkpoint())
	want := []string{"sync data", "journal", "sync map", "page", "sync map", "header"}
	if !slices.Equal(ops, want) {
		t.Fatalf("checkpoint did %q, want %q", ops, want)
	}
}

func classify(op vfs.Op) string {
	kind, isMap := "data", len(op.Path) > 4 && op.Path[len(op.Path)-4:] == ".map"
	if isMap {
		kind = "map"
	}
	switch {
	case op.Kind == vfs.OpSync:
		return "sync " + kind
	case !isMap:
		return "data"
	case op.Offset < 2*headerSize:
		return "header"
	case op.Offset < pageOffset(bigHalf, 0):
		return "journal"
	}
	return "page"
}

// After a process crash nobody knows whether the data of replayed records is on
// disk, although nothing was written since.
func TestReplayedRecordsAreDataSyncedBeforeCheckpoint(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	l, _ = crashProcess(t, mem, l, env)
	must(t, l.Checkpoint())
	_, _, l2, _ := cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
	if v := versions(t, l2, 1); v != [8]uint64{1, 1, 1, 1, 1, 1, 1, 1} {
		t.Fatalf("content after the power failure: %v", v)
	}
}

// A COMMIT that was appended but never synced is no reason to skip the next one.
func TestCommitOfUnknownDurabilityIsRepeatedAfterProcessCrash(t *testing.T) {
	mem := vfs.NewMem()
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.map", vfs.OnKind(vfs.OpSync, vfs.FromIndex(2, vfs.ErrCrashed))))
	env := testEnv(t, faulty, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1) // second sync clears the clean mark
	if err := l.Flush(); err == nil {
		t.Fatal("flush succeeded without a sync of the map")
	}
	mem.ProcessCrash()
	l.Abandon()
	l, _ = mustOpen(t, on(t, env, mem))
	must(t, l.Flush())
	_, _, l2, _ := cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
}

func TestOldLapIsNeverReplayed(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	for lap := range 6 {
		for b := range int64(20) {
			write(t, l, b, 1, uint64(lap+1))
		}
		must(t, l.Mark(0, 20, Zero)) // fewer records in the later laps than in the first
		must(t, l.Checkpoint())
		write(t, l, 40+int64(lap), 1, 9)
		l, _ = crashProcess(t, mem, l, env)
		for b := range int64(20) {
			wantState(t, l, b, Zero)
		}
		must(t, l.Checkpoint())
		_, _, l2, _ := cutPower(t, mem, env, nil)
		for b := range int64(20) {
			wantState(t, l2, b, Zero)
		}
		wantState(t, l2, 40+int64(lap), Data)
	}
}

func TestTornHeaderIsHarmless(t *testing.T) {
	for seed := range uint64(200) {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		l := mustCreate(t, env)
		write(t, l, 1, 1, 1)
		must(t, l.Flush())
		must(t, l.Rewrite(func(id *Identity) { id.Parent = 5 }))
		must(t, l.updateHeader(func(h *header) { h.id.Parent = 6 })) // not synced
		_, _, l2, _ := cutPower(t, mem, env, rand.New(rand.NewPCG(seed, 3)))
		wantState(t, l2, 1, Data)
		if p := l2.Identity().Parent; p != 5 && p != 6 {
			t.Fatalf("seed %d: parent %d", seed, p)
		}
	}
}

func TestTornPageIsHarmless(t *testing.T) {
	torn := 0
	for seed := range uint64(300) {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		l := mustCreate(t, env)
		for round := range uint64(4) {
			for b := range int64(4) {
				write(t, l, b*5000+int64(round), 1, round+1)
			}
			if round < 3 {
				must(t, l.Checkpoint())
			}
		}
		must(t, l.Flush())
		f := l.freeze()
		for no, p := range f.pages { // pages written, power lost before the sync
			var buf [pageSlot]byte
			p.encode(buf[:], l.id, f.seq)
			_, err := l.mapf.WriteAt(buf[:], pageOffset(l.half, no)+int64(p.otherSlot())*pageSlot)
			must(t, err)
		}
		cut, env2, l2, _ := cutPower(t, mem, env, rand.New(rand.NewPCG(seed, 3)))
		for b := range int64(4) {
			for round := range int64(4) {
				wantState(t, l2, b*5000+round, Data)
			}
		}
		var raw [2 * pageSlot]byte
		must(t, readFull(l2.mapf, raw[:], pageOffset(l2.half, 0)))
		for s := range 2 {
			if v, err := viewSlot(raw[s*pageSlot:(s+1)*pageSlot], l2.id, 0); err == nil && v.written && !v.whole {
				torn++
			}
		}
		write(t, l2, 7, 1, 9)
		must(t, l2.Checkpoint())
		wantSound(t, l2)
		l2, _ = crashProcess(t, cut, l2, env2)
		wantState(t, l2, 7, Data)
	}
	if torn == 0 {
		t.Fatal("no seed tore a page")
	}
}
