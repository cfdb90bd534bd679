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

const bigHalf = 1 << 20

func TestAcknowledgedMarkSurvivesProcessCrashWithoutSync(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 3, 2, 1)
	must(t, l.Mark(100, 5, Zero))
	l, rec := crashProcess(t, mem, l, env)
	wantState(t, l, 3, Data)
	wantState(t, l, 104, Zero)
	wantState(t, l, 5, Absent)
	if rec.Lost || rec.NewCache || rec.Replayed != 2 {
		t.Fatalf("recovery %+v", rec)
	}
	if v := versions(t, l, 4); v[7] != 1 {
		t.Fatalf("content %v", v)
	}
}

func TestSameCacheReplaysBeyondLastCommit(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	write(t, l, 2, 1, 1)
	l, _ = crashProcess(t, mem, l, env)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Data)
}

func TestNewCacheReplaysToLastCommitOnly(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	write(t, l, 2, 1, 1)
	// The record reaches the disk, yet the data need not have.
	must(t, l.mapf.Sync())
	_, _, l2, rec := cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
	wantState(t, l2, 2, Absent)
	if !rec.Lost || !rec.NewCache || rec.Replayed != 1 || rec.Discarded != 1 {
		t.Fatalf("recovery %+v", rec)
	}
}

// A mark that is appended while the data sync of a flush runs stands before that
// flush's COMMIT in the file, and must not be believed because of it.
func TestCommitExcludesRecordsAppendedDuringItsDataSync(t *testing.T) {
	mem := vfs.NewMem()
	var l *Layer
	var armed atomic.Bool
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.data", vfs.OnKind(vfs.OpSync, func(vfs.Op) error {
		if armed.CompareAndSwap(true, false) {
			must(t, l.Mark(2, 1, Data))
		}
		return nil
	})))
	env := testEnv(t, faulty, bigHalf)
	l = mustCreate(t, env)
	write(t, l, 1, 1, 1)
	armed.Store(true)
	must(t, l.Flush())
	_, _, l2, _ := cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
	wantState(t, l2, 2, Absent)
}

func TestNewGenerationIsDurableBeforeFirstAppendAfterLoss(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	for b := int64(10); b < 20; b++ {
		write(t, l, b, 1, 1)
	}
	must(t, l.mapf.Sync()) // ten records on disk that nobody committed
	cut, env2, l2, _ := cutPower(t, mem, env, nil)
	// One record in the place of the first of the ten. Were the generation the
	// same, a process crash now would replay the nine others.
	write(t, l2, 30, 1, 2)
	l3, rec := crashProcess(t, cut, l2, env2)
	wantState(t, l3, 1, Data)
	wantState(t, l3, 30, Data)
	for b := int64(10); b < 20; b++ {
		wantState(t, l3, b, Absent)
	}
	if rec.NewCache || rec.Lost {
		t.Fatalf("recovery %+v", rec)
	}
	l3.Abandon()
	// And were its header not durable, a power failure would lose the record's
	// generation but keep the record.
	write2 := cut.PowerCut(rand.New(rand.NewPCG(1, 2)))
	l4, _ := mustOpen(t, on(t, env, write2))
	for b := int64(10); b < 20; b++ {
		wantState(t, l4, b, Absent)
	}
}

func TestFirstWriteAfterLossSyncsHeaderBeforeAppending(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	cut, env2, l2, _ := cutPower(t, mem, env, nil)
	before := l2.hdr.gen
	write(t, l2, 2, 1, 1)
	// Nothing was flushed since: whatever is durable now was made so by recovery.
	_, _, l3, _ := cutPower(t, cut, env2, nil)
	if l3.hdr.gen <= before+1 {
		t.Fatalf("generation on disk is %d, was %d before recovery", l3.hdr.gen, before)
	}
	wantState(t, l3, 1, Data)
}

func TestReplayStopsAtFirstBadRecordAfterLoss(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush()) // records 1 and 2
	write(t, l, 2, 1, 1)
	write(t, l, 3, 1, 1)
	must(t, l.Flush()) // 3, 4, COMMIT 5
	poke(t, mem, env.MapPath(testID), halfOffset(bigHalf, 1)+3*recordSize, flip)
	_, _, l2, rec := cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
	wantState(t, l2, 2, Absent) // the COMMIT that names it is behind the bad record
	wantState(t, l2, 3, Absent)
	if rec.Replayed != 1 {
		t.Fatalf("recovery %+v", rec)
	}
}

func TestTornJournalTailIsHarmless(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	write(t, l, 2, 1, 1)
	poke(t, mem, env.MapPath(testID), halfOffset(bigHalf, 1)+recordSize, flip)
	l, _ = crashProcess(t, mem, l, env)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
	write(t, l, 3, 1, 1)
	l, _ = crashProcess(t, mem, l, env)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
	wantState(t, l, 3, Data)
}

func TestDamagedRecordWithLaterOnesIsRefusedAfterProcessCrash(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	for b := range int64(10) {
		write(t, l, b, 1, 1)
	}
	poke(t, mem, env.MapPath(testID), halfOffset(bigHalf, 1)+4*recordSize, flip)
	l.Abandon()
	if _, _, err := Open(env, testID); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("open: %v, want ErrCorrupt", err)
	}
}

func TestFailedDataSyncPoisonsDurably(t *testing.T) { testFailedSyncPoisons(t, "*.data") }

func TestFailedMapSyncPoisonsDurably(t *testing.T) { testFailedSyncPoisons(t, "*.map") }

func testFailedSyncPoisons(t *testing.T, glob string) {
	mem := vfs.NewMem()
	var armed atomic.Bool
	faulty := vfs.NewFaulty(mem, vfs.OnPath(glob, vfs.OnKind(vfs.OpSync, func(vfs.Op) error {
		if armed.CompareAndSwap(true, false) {
			return syscall.EIO
		}
		return nil
	})))
	env := testEnv(t, faulty, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	write(t, l, 2, 1, 1)
	armed.Store(true)
	if err := l.Flush(); !errors.Is(err, store.ErrReadOnly) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("flush: %v, want ErrReadOnly and EIO", err)
	}
	wantRefused(t, l)
	l.Abandon()
	l, rec := mustOpen(t, env)
	if rec.Poison == "" || !rec.Lost {
		t.Fatalf("recovery %+v", rec)
	}
	wantRefused(t, l)
	wantState(t, l, 1, Data)
	must(t, l.Close())
	_, _, l, rec = cutPower(t, mem, env, nil)
	if rec.Poison == "" {
		t.Fatal("the poison did not survive a power failure")
	}
	wantRefused(t, l)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
}

func wantRefused(t *testing.T, l *Layer) {
	t.Helper()
	for what, err := range map[string]error{
		"write": l.WriteData(make([]byte, BlockSize), 0), "mark": l.Mark(9, 1, Zero), "punch": l.Punch(0, BlockSize),
		"flush": l.Flush(), "checkpoint": l.Checkpoint(), "seal": l.Seal(), "mark clean": l.MarkClean(),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Fatalf("%s on a poisoned layer: %v, want ErrReadOnly", what, err)
		}
	}
	if l.Poisoned() == "" || l.Identity().Poison == "" {
		t.Fatal("poisoned without a reason")
	}
}

func TestPoisonedReplaysOnlyWhatWasCommitted(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Flush())
	write(t, l, 2, 1, 1)
	must(t, l.Poison("test"))
	l, rec := crashProcess(t, mem, l, env)
	wantState(t, l, 1, Data)
	wantState(t, l, 2, Absent)
	if rec.Poison != "test" || !rec.Lost {
		t.Fatalf("recovery %+v", rec)
	}
}
