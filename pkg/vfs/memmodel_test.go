package vfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// model is a file as plain bytes, and which versions each of its bytes may have
// after a power cut.
type model struct {
	now      []byte
	possible []map[byte]bool // by offset
}

func newModel(size int) *model {
	m := &model{now: make([]byte, size), possible: make([]map[byte]bool, size)}
	m.sync()
	return m
}

func (m *model) sync() {
	for i, b := range m.now {
		m.possible[i] = map[byte]bool{b: true}
	}
}

func (m *model) set(off int, p []byte) {
	copy(m.now[off:], p)
	for i, b := range p {
		m.possible[off+i][b] = true
	}
}

// TestMemAgainstModel drives a file at random and checks after each step that it
// reads as the model says, and that a power cut has no byte that never was there
// and no byte older than the last sync.
func TestMemAgainstModel(t *testing.T) {
	const size = 3*4096 + 700
	rng := rngOf(seed(t))
	for round := range 15 {
		disk := vfs.NewMem()
		f := open(t, disk, "/f", os.O_RDWR|os.O_CREATE)
		must(t, f.Truncate(size))
		must(t, f.Sync())
		must(t, disk.SyncDir("/"))
		m := newModel(size)
		for step := range 60 {
			what := drive(t, rng, f, m, byte(step+1))
			got := make([]byte, size)
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, m.now) {
				t.Fatalf("round %d step %d (%s): content differs from the model, %v", round, step, what, err)
			}
			cut := disk.PowerCut(rng)
			for i, b := range []byte(content(t, cut, "/f")) {
				if !m.possible[i][b] {
					t.Fatalf("round %d step %d (%s): byte %d is %d after a power cut, possible %v", round, step, what, i, b, m.possible[i])
				}
			}
		}
	}
}

// drive makes one random change, or syncs, on both.
func drive(t *testing.T, rng *rand.Rand, f vfs.File, m *model, mark byte) string {
	t.Helper()
	off := rng.IntN(len(m.now))
	n := 1 + rng.IntN(min(6000, len(m.now)-off))
	switch rng.IntN(8) {
	case 0:
		must(t, f.Sync())
		m.sync()
		return "sync"
	case 1:
		must(t, f.PunchHole(int64(off), int64(n)))
		m.set(off, make([]byte, n))
		return fmt.Sprintf("punch [%d,+%d)", off, n)
	default:
		p := bytes.Repeat([]byte{mark}, n)
		_, err := f.WriteAt(p, int64(off))
		must(t, err)
		m.set(off, p)
		return fmt.Sprintf("write [%d,+%d)", off, n)
	}
}

// TestSyncDoesNotCoverAWriteBesideIt: Mem lets others run in the middle of Sync. A
// write that comes and ends there is not durable, so that a store which counts on
// it is found out.
func TestSyncDoesNotCoverAWriteBesideIt(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // others run when Sync lets them
	for range 100 {
		disk := vfs.NewMem()
		f := open(t, disk, "/f", os.O_RDWR|os.O_CREATE)
		must(t, disk.SyncDir("/"))
		write(t, f, 0, "a")
		wrote := make(chan error, 1)
		go func() {
			_, err := f.WriteAt([]byte("b"), 0)
			wrote <- err
		}()
		must(t, f.Sync())
		select {
		case err := <-wrote:
			must(t, err)
			if got := content(t, disk.PowerCut(nil), "/f"); got != "a" {
				t.Fatalf("content is %q", got)
			}
			return
		default: // the scheduler chose another
			must(t, <-wrote)
		}
	}
	t.Fatal("no write ever came while Sync ran")
}
