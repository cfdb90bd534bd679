package vfs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/vfs"
)

// seed is random unless STRATA_SEED replays an earlier one. It is shown when the
// test fails.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("STRATA_SEED"); text != "" {
		var err error
		s, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("STRATA_SEED=%d", s)
	return s
}

func rngOf(s uint64) *rand.Rand { return rand.New(rand.NewPCG(s, 0)) }

// disk makes a Mem with a synced file /f of the given content.
func disk(t testing.TB, text string) (*vfs.Mem, vfs.File) {
	t.Helper()
	m := vfs.NewMem()
	f := open(t, m, "/f", os.O_RDWR|os.O_CREATE)
	write(t, f, 0, text)
	must(t, f.Sync())
	must(t, m.SyncDir("/"))
	return m, f
}

// content is all of a file, or "missing".
func content(t testing.TB, m *vfs.Mem, name string) string {
	t.Helper()
	f, err := m.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "missing"
	}
	must(t, err)
	size, err := f.Size()
	must(t, err)
	p := make([]byte, size)
	_, err = f.ReadAt(p, 0)
	must(t, errors.Join(err, f.Close()))
	return string(p)
}

// outcomes are the different results of many cuts of one moment.
func outcomes(t testing.TB, m *vfs.Mem, see func(cut *vfs.Mem) string) map[string]int {
	t.Helper()
	rng := rngOf(seed(t))
	seen := map[string]int{}
	for range 3000 {
		seen[see(m.PowerCut(rng))]++
	}
	return seen
}

func wantOutcomes(t testing.TB, got map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if got[w] == 0 {
			t.Errorf("never %q", w)
		}
		delete(got, w)
	}
	for g, n := range got {
		t.Errorf("%d times %q", n, g)
	}
}

func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	m, f := disk(t, "synced")
	rng := rngOf(seed(t))
	for range 100 {
		if got := content(t, m.PowerCut(rng), "/f"); got != "synced" {
			t.Fatalf("content is %q", got)
		}
	}
	write(t, f, 0, "UNSYNC")
	if got := content(t, m.PowerCut(nil), "/f"); got != "synced" {
		t.Fatalf("a cut that keeps nothing unsynced has %q", got)
	}
	if got := content(t, m, "/f"); got != "UNSYNC" {
		t.Fatalf("the cuts changed the disk they were made of: %q", got)
	}
}

func TestPowerCutKeepsAnySubsetOfWrites(t *testing.T) {
	m, f := disk(t, strings.Repeat(".", 2048))
	write(t, f, 0, "a")
	write(t, f, 600, "b")
	write(t, f, 1200, "c")
	got := outcomes(t, m, func(cut *vfs.Mem) string {
		text := content(t, cut, "/f")
		return string([]byte{text[0], text[600], text[1200]})
	})
	wantOutcomes(t, got, "...", "a..", ".b.", "..c", "ab.", "a.c", ".bc", "abc")
}

// TestPowerCutKeepsSectorsNotPages: a write that ends with a page does not carry
// along what another wrote at its beginning.
func TestPowerCutKeepsSectorsNotPages(t *testing.T) {
	m, f := disk(t, strings.Repeat(".", 4096))
	write(t, f, 0, "a")
	write(t, f, 3584, strings.Repeat("b", 512))
	got := outcomes(t, m, func(cut *vfs.Mem) string {
		text := content(t, cut, "/f")
		return string([]byte{text[0], text[4095]})
	})
	if got[".b"] < 100 { // of 3000; some come from torn writes alone
		t.Errorf("only %d times the second write without the first", got[".b"])
	}
	wantOutcomes(t, got, "..", "a.", ".b", "ab")
}

func TestPowerCutTearsAtSectors(t *testing.T) {
	m, f := disk(t, strings.Repeat(".", 4096))
	write(t, f, 100, strings.Repeat("x", 1436)) // the rest of sector 0, sectors 1 and 2
	torn := map[string]bool{}
	for text := range outcomes(t, m, func(cut *vfs.Mem) string { return content(t, cut, "/f") }) {
		shape := ""
		for s := range 3 {
			part := text[max(100, s*512) : s*512+512]
			if strings.Count(part, part[:1]) != len(part) {
				t.Fatalf("sector %d is torn", s)
			}
			shape += part[:1]
		}
		if text[:100] != strings.Repeat(".", 100) || text[1536:] != strings.Repeat(".", 2560) {
			t.Fatal("bytes outside the write changed")
		}
		torn[shape] = true
	}
	if len(torn) != 8 {
		t.Fatalf("shapes seen: %v, want all 8", torn)
	}
}

func TestPowerCutOfSizes(t *testing.T) {
	m, f := disk(t, "base")
	write(t, f, 4, "+1")
	must(t, f.Truncate(2))
	got := outcomes(t, m, func(cut *vfs.Mem) string { return content(t, cut, "/f") })
	wantOutcomes(t, got, "base", "base+1", "ba")
	must(t, f.Sync())
	if got := content(t, m.PowerCut(nil), "/f"); got != "ba" {
		t.Fatalf("a synced size was lost: %q", got)
	}
}

func TestPowerCutNeverShowsBytesBeyondTheSize(t *testing.T) {
	m, f := disk(t, "")
	write(t, f, 100, "later part of the sector")
	write(t, f, 0, "early")
	for text := range outcomes(t, m, func(cut *vfs.Mem) string {
		g := open(t, cut, "/f", os.O_RDWR)
		size, err := g.Size()
		must(t, err)
		must(t, g.Truncate(200))
		return fmt.Sprint(size, " ", strings.Trim(content(t, cut, "/f"), "\x00"))
	}) {
		if strings.HasPrefix(text, "5 ") && text != "5 early" {
			t.Fatalf("growing the file showed %q", text)
		}
	}
}

func TestPowerCutOfHoles(t *testing.T) {
	m, f := disk(t, strings.Repeat("x", 8192))
	must(t, f.PunchHole(0, 8192))
	partly := 0
	got := outcomes(t, m, func(cut *vfs.Mem) string {
		text := content(t, cut, "/f")
		switch n := strings.Count(text, "x"); {
		case n%512 != 0:
			t.Fatalf("the hole is torn inside a sector: %d bytes left", n)
		case n > 0 && n < 8192:
			partly++
			return "partly"
		}
		return text[:1]
	})
	wantOutcomes(t, got, "x", "\x00", "partly")
	must(t, f.Sync())
	if got := content(t, m.PowerCut(nil), "/f"); strings.Contains(got, "x") {
		t.Fatal("a synced hole was lost")
	}
}

func TestPowerCutOfNames(t *testing.T) {
	m, f := disk(t, "old")
	g := open(t, m, "/g", os.O_RDWR|os.O_CREATE)
	write(t, g, 0, "new")
	must(t, g.Sync())
	see := func(cut *vfs.Mem) string { return content(t, cut, "/f") + " " + content(t, cut, "/g") }
	wantOutcomes(t, outcomes(t, m, see), "old missing", "old new")
	must(t, m.SyncDir("/"))
	wantOutcomes(t, outcomes(t, m, see), "old new")
	must(t, m.Rename("/g", "/f"))
	wantOutcomes(t, outcomes(t, m, see), "old new", "new missing")
	must(t, m.SyncDir("/"))
	wantOutcomes(t, outcomes(t, m, see), "new missing")
	must(t, m.Remove("/f"))
	wantOutcomes(t, outcomes(t, m, see), "new missing", "missing missing")
	wantText(t, f, 0, "old") // replaced, still open
}

func TestPowerCutOfARenameBetweenDirectories(t *testing.T) {
	for _, order := range [][]string{{"/", "/d"}, {"/d", "/"}} {
		m, _ := disk(t, "text")
		must(t, m.MkdirAll("/d", 0o755))
		must(t, m.SyncDir("/"))
		see := func(cut *vfs.Mem) string { return content(t, cut, "/f") + " " + content(t, cut, "/d/f") }
		must(t, m.Rename("/f", "/d/f"))
		must(t, m.SyncDir(order[0]))
		wantOutcomes(t, outcomes(t, m, see), "text missing", "missing text")
		must(t, m.SyncDir(order[1]))
		wantOutcomes(t, outcomes(t, m, see), "missing text")
	}
}

func TestPowerCutNeverDoublesAFile(t *testing.T) {
	m, _ := disk(t, "text")
	must(t, m.Rename("/f", "/g"))
	must(t, m.Rename("/g", "/h"))
	wantOutcomes(t, outcomes(t, m, func(cut *vfs.Mem) string {
		names, err := cut.List("/")
		must(t, err)
		return strings.Join(names, " ")
	}), "f", "g", "h")
}

func TestSyncDirCoversNamesBehindUndecidedOnes(t *testing.T) {
	m, _ := disk(t, "one")
	must(t, m.MkdirAll("/d", 0o755))
	must(t, m.SyncDir("/"))
	must(t, m.Rename("/f", "/d/f")) // owed by / for ever
	must(t, m.Rename("/d/f", "/d/g"))
	must(t, m.SyncDir("/d"))
	wantOutcomes(t, outcomes(t, m, func(cut *vfs.Mem) string {
		return content(t, cut, "/d/g") + " " + content(t, cut, "/f") + " " + content(t, cut, "/d/f")
	}), "one missing missing")
}

func TestPowerCutOfAnUnsyncedDirectory(t *testing.T) {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d", 0o755))
	f := open(t, m, "/d/f", os.O_RDWR|os.O_CREATE)
	write(t, f, 0, "text")
	must(t, f.Sync())
	must(t, m.SyncDir("/d"))
	wantOutcomes(t, outcomes(t, m, func(cut *vfs.Mem) string { return content(t, cut, "/d/f") }), "text", "missing")
}

func TestPowerCutFollowsItsSeed(t *testing.T) {
	m, f := disk(t, strings.Repeat(".", 1<<16))
	rng := rngOf(seed(t))
	for i := range 200 {
		write(t, f, rng.Int64N(1<<16), strings.Repeat("x", 1+rng.IntN(3000)))
		open(t, m, fmt.Sprint("/", i), os.O_RDWR|os.O_CREATE)
	}
	see := func(cut *vfs.Mem) string {
		names, err := cut.List("/")
		must(t, err)
		return content(t, cut, "/f") + strings.Join(names, " ")
	}
	for s := range uint64(20) {
		first, second := see(m.PowerCut(rngOf(s))), see(m.PowerCut(rngOf(s)))
		if first != second {
			t.Fatalf("two cuts with seed %d differ", s)
		}
	}
}

func TestCacheIDOfCrashes(t *testing.T) {
	m, _ := disk(t, "")
	id := func(m *vfs.Mem) string {
		id, err := m.CacheID("/f")
		must(t, err)
		return id
	}
	before := id(m)
	m.ProcessCrash()
	if id(m) != before {
		t.Fatal("a process crash changed the cache id")
	}
	a, b := m.PowerCut(nil), m.PowerCut(nil)
	if c := a.PowerCut(nil); id(a) == before || id(b) == before || id(a) == id(b) || id(c) == id(a) || id(c) == id(b) || id(c) == before {
		t.Fatal("a power cut left the cache id as it was")
	}
}

func TestProcessCrashKeepsContentAndEndsHandles(t *testing.T) {
	m, f := disk(t, "synced")
	write(t, f, 0, "UNSYNC")
	m.ProcessCrash()
	if m.OpenCount() != 0 {
		t.Fatalf("%d files are open", m.OpenCount())
	}
	_, readErr := f.ReadAt(make([]byte, 1), 0)
	_, writeErr := f.WriteAt([]byte("x"), 0)
	_, sizeErr := f.Size()
	_, allocatedErr := f.Allocated()
	for _, err := range []error{readErr, writeErr, sizeErr, allocatedErr, f.Sync(), f.Truncate(0), f.PunchHole(0, 1), f.DropCache(0, 1), f.Close()} {
		wantErr(t, err, vfs.ErrStale)
	}
	if got := content(t, m, "/f"); got != "UNSYNC" {
		t.Fatalf("content is %q", got)
	}
	if got := content(t, m.PowerCut(nil), "/f"); got != "synced" {
		t.Fatalf("a crash of the process synced the file: %q", got)
	}
}

func TestSyncCoversEarlierWritesOfOtherHandles(t *testing.T) {
	m, f := disk(t, "1.")
	g := open(t, m, "/f", os.O_RDWR)
	write(t, f, 1, "2")
	must(t, g.Sync())
	if got := content(t, m.PowerCut(nil), "/f"); got != "12" {
		t.Fatalf("content is %q", got)
	}
	if n := m.Unsynced(); n != 0 {
		t.Fatalf("%d unsynced changes after sync", n)
	}
}

func TestFailedSyncLosesWhatItCovered(t *testing.T) {
	m := vfs.NewMem()
	boom := errors.New("boom")
	p := vfs.NewFaulty(m, vfs.OnKind(vfs.OpSync, vfs.Once(vfs.Always(boom))))
	f := open(t, p, "/f", os.O_RDWR|os.O_CREATE)
	must(t, p.SyncDir("/"))
	write(t, f, 0, "lost")
	wantErr(t, f.Sync(), boom)
	write(t, f, 8192, "kept")
	must(t, f.Sync())
	if got := content(t, m.PowerCut(nil), "/f"); got[:4] != "\x00\x00\x00\x00" || got[8192:] != "kept" {
		t.Fatalf("content starts with %q, ends with %q", got[:4], got[8192:])
	}
	wantText(t, f, 0, "lost")
}

func TestCapacity(t *testing.T) {
	m, f := disk(t, strings.Repeat("x", 8192))
	m.SetCapacity(16384)
	wantFree := func(want int64) {
		t.Helper()
		if total, free, err := m.Space("/"); total != 16384 || free != want || err != nil {
			t.Fatalf("total %d, free %d, %v, want %d free", total, free, err, want)
		}
	}
	wantFree(8192)
	_, err := f.WriteAt(make([]byte, 8193), 8192)
	wantErr(t, err, syscall.ENOSPC)
	wantSize(t, f, 8192)
	write(t, f, 0, strings.Repeat("y", 8192))
	write(t, f, 8192, strings.Repeat("y", 8192))
	wantFree(0)
	must(t, f.PunchHole(4096, 4096))
	wantFree(4096)
	must(t, m.Remove("/f"))
	wantFree(4096) // still open
	must(t, f.Close())
	wantFree(16384)
}

func TestUnsyncedChangesAreBounded(t *testing.T) {
	m, f := disk(t, "")
	for range 1<<16 + 100 {
		write(t, f, 0, "x")
	}
	if n := m.Unsynced(); n > 1<<16 {
		t.Fatalf("%d unsynced changes are remembered", n)
	}
}
