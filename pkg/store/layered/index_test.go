package layered_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// history is an image with so many snapshots that merged indexes cover most of them,
// and what each of them shows.
type history struct {
	*lab
	rng   *rand.Rand
	image store.Info
	now   []byte
	snaps []store.Info
	shown [][]byte
}

const historySize = 6 * mib // two chunks, the second one in part

// newHistory makes a clone with a long history: writes, discards and resizes between
// its snapshots, over a parent with data everywhere.
func newHistory(t *testing.T, l *lab, rng *rand.Rand, length int) *history {
	t.Helper()
	parent := l.create("parent", historySize)
	l.write(parent.ID, 0, historySize, 1)
	h := &history{lab: l, rng: rng, image: l.clone(l.snap(parent.ID, "p").ID, "image"), now: pattern(historySize, 1)}
	for n := range length {
		h.change()
		switch n { // merges of these two go up and down, and move what others show
		case 40, 61:
			h.put(0, 64, uint64(n))
		case 41, 60:
			h.put(64, 128, uint64(n))
		}
		h.freeze()
	}
	l.idle()
	return h
}

func (h *history) change() {
	h.Helper()
	dev, err := h.st.Open(h.ctx, h.image.ID)
	h.must(err)
	for range 1 + h.rng.IntN(4) {
		off := h.rng.Int64N(int64(len(h.now))/4096) * 4096
		n := min(1+h.rng.Int64N(6), int64(len(h.now))/4096-off/4096) * 4096
		if h.rng.IntN(3) == 0 {
			h.must(dev.Discard(off, n))
			clear(h.now[off : off+n])
			continue
		}
		p := pattern(n, h.rng.Uint64())
		_, err := dev.WriteAt(p, off)
		h.must(err)
		copy(h.now[off:], p)
	}
	h.must(dev.Close())
	if h.rng.IntN(24) == 0 {
		size := (1 + h.rng.Int64N(historySize/4096)) * 4096
		_, err := h.st.Resize(h.ctx, h.image.ID, size)
		h.must(err)
		was := h.now
		h.now = make([]byte, size)
		copy(h.now, was)
	}
}

// put writes n blocks, as far as the image reaches.
func (h *history) put(first, n int64, seed uint64) {
	h.Helper()
	from, to := min(first*4096, int64(len(h.now))), min((first+n)*4096, int64(len(h.now)))
	h.write(h.image.ID, from, to-from, seed)
	copy(h.now[from:], pattern(to-from, seed))
}

func (h *history) freeze() {
	h.Helper()
	h.snaps = append(h.snaps, h.snap(h.image.ID, fmt.Sprintf("s%d", len(h.snaps))))
	h.shown = append(h.shown, bytes.Clone(h.now))
}

// tells requires that the image and some snapshots show what they should.
func (h *history) tells(when string) {
	h.Helper()
	h.want(h.image.ID, when+" the image", h.now)
	for n := 0; n < len(h.snaps); n += 7 {
		if h.snaps[n].ID != "" {
			h.want(h.snaps[n].ID, when+" "+h.snaps[n].Ref(), h.shown[n])
		}
	}
}

// over is tells for what stands on the layers of the 40th and 60th snapshot: right
// above them, and above the top of the index that covers them.
func (h *history) over(when string) {
	h.Helper()
	h.want(h.image.ID, when+" the image", h.now)
	for _, n := range []int{41, 61, 63, 65, 67} {
		h.want(h.snaps[n].ID, when+" "+h.snaps[n].Ref(), h.shown[n])
	}
}

func (h *history) indexes() (names []string) {
	h.Helper()
	all, err := h.mem.List("layers")
	h.must(err)
	return slices.DeleteFunc(all, func(n string) bool { return !strings.HasSuffix(n, ".index") })
}

// reading counts the index files that a read of the whole image looks at, after all
// that is in memory was forgotten.
func (h *history) reading() (indexes, maps int) {
	h.Helper()
	h.restart()
	seen := map[string]bool{}
	h.fail(vfs.OnKind(vfs.OpRead, func(op vfs.Op) error {
		seen[path.Base(op.Path)] = true
		return nil
	}))
	h.want(h.image.ID, "the image", h.now)
	h.fail(nil)
	for name := range seen {
		switch path.Ext(name) {
		case ".index":
			indexes++
		case ".map":
			maps++
		}
	}
	return indexes, maps
}

// An index answers exactly as the maps of its layers do.
func TestIndexTellsTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 3))
	h := newHistory(t, newLab(t, nil), rng, 260)
	if n := len(h.indexes()); n < 2 {
		t.Fatalf("%d indexes for %d snapshots", n, len(h.snaps))
	}
	with, _ := h.reading()
	if with == 0 {
		t.Error("a read of a long history used no index")
	}
	h.tells("with indexes")
	h.stop()
	for _, name := range h.indexes() {
		h.must(h.mem.Remove("layers/" + name))
	}
	h.start()
	h.tells("without indexes")
	if !h.noted("layer", "its index cannot be used") {
		t.Error("nobody was told that an index is missing")
	}
	h.clean()
}

// Whatever befalls an index, reads stay right.
func TestDamagedIndexIsPassedOver(t *testing.T) {
	base := seed(t)
	harms := map[string]func(f vfs.File, size int64, rng *rand.Rand) error{
		"empty":       func(f vfs.File, _ int64, _ *rand.Rand) error { return f.Truncate(0) },
		"cut off":     func(f vfs.File, size int64, rng *rand.Rand) error { return f.Truncate(rng.Int64N(size)) },
		"zeroes":      func(f vfs.File, size int64, _ *rand.Rand) error { return overwrite(f, 0, size, 0) },
		"no entries":  func(f vfs.File, size int64, _ *rand.Rand) error { return overwrite(f, 4096, size-4096, 0) },
		"a blank one": func(f vfs.File, size int64, _ *rand.Rand) error { return overwrite(f, 4096, 16, 0) },
		"a blank end": func(f vfs.File, size int64, _ *rand.Rand) error { return overwrite(f, 4096+16, size-4096-16, 0) },
		"bits": func(f vfs.File, size int64, rng *rand.Rand) error {
			for range 40 {
				if err := overwrite(f, rng.Int64N(size), 1, byte(rng.Uint32())); err != nil {
					return err
				}
			}
			return nil
		},
	}
	l := newLab(t, nil)
	h := newHistory(t, l, rand.New(rand.NewPCG(base, 4)), 260)
	h.stop()
	for what, harm := range harms {
		mem := l.mem
		l.mem = mem.PowerCut(nil) // a copy; all is synced
		for n, name := range h.indexes() {
			l.edit(name, func(f vfs.File) error {
				size, err := f.Size()
				if err != nil {
					return err
				}
				return harm(f, size, rand.New(rand.NewPCG(base, uint64(n))))
			})
		}
		l.start()
		h.tells("with indexes harmed (" + what + ")")
		h.stop()
		l.mem = mem
	}
	l.start()
}

// An index over layers that a merge or flatten changes is dropped before, and written
// again when enough layers lack one.
func TestIndexIsDroppedOnMergeAndFlatten(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 5))
	h := newHistory(t, newLab(t, nil), rng, 200)
	for n := 20; n < 150; n += 10 {
		h.remove(h.snaps[n].ID)
		h.snaps[n] = store.Info{}
		h.want(h.image.ID, "during a merge the image", h.now)
		h.idle()
		h.want(h.image.ID, "after a merge the image", h.now)
	}
	h.tells("after merges")
	h.must(h.st.Flatten(h.ctx, h.image.ID))
	h.idle()
	h.tells("after a flatten")
	h.restart()
	h.tells("after a flatten and a restart")
	for range 120 {
		h.change()
		h.freeze()
	}
	h.idle()
	if with, _ := h.reading(); with == 0 {
		t.Error("no index is in use after merges, a flatten and 120 more snapshots")
	}
	h.tells("with indexes again")
	for n := range h.snaps {
		if h.snaps[n].ID != "" {
			h.remove(h.snaps[n].ID)
		}
	}
	h.snaps = nil
	h.idle()
	if left := h.indexes(); len(left) != 0 {
		t.Errorf("indexes of removed layers are left: %v", left)
	}
	h.tells("without snapshots")
	h.clean()
}

// Between the moment a merge has freed its source and the one it is done, whoever opens
// the image must not be sent to the source by an index.
func TestIndexIsOutOfUseDuringMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 8))
	h := newHistory(t, newLab(t, nil), rng, 130)
	held, release := make(chan struct{}), make(chan struct{})
	var freed atomic.Bool
	var once sync.Once
	h.fail(func(op vfs.Op) error {
		if op.Kind == vfs.OpPunch && op.Length == 4*mib && path.Ext(op.Path) == ".data" {
			freed.Store(true)
		}
		if op.Path == "catalogue.db" && freed.Load() {
			once.Do(func() {
				close(held)
				<-release
			})
		}
		return nil
	})
	h.remove(h.snaps[40].ID)
	select {
	case <-held:
	case <-h.ctx.Done():
		t.Fatal("no merge freed anything")
	}
	h.over("in the middle of a merge")
	close(release)
	h.fail(nil)
	h.idle()
	h.over("after the merge")
}

// A crash at any change of a merge or flatten over indexed layers leaves no index that
// says what is no longer true.
func TestStaleIndexIsNeverUsed(t *testing.T) {
	base := seed(t)
	l := newLab(t, func(o *layered.Options) { o.Workers = 2 })
	h := newHistory(t, l, rand.New(rand.NewPCG(base, 6)), 130)
	if len(h.indexes()) == 0 {
		t.Fatal("no index")
	}
	h.stop()
	catalogue := h.saveCatalogue()
	disk := l.mem
	rng := rand.New(rand.NewPCG(base, 7))
	changes := h.interrupted(disk, catalogue, 1<<40, rng)
	for stop := int64(0); stop < changes; stop += 2 + rng.Int64N(6) {
		h.interrupted(disk, catalogue, stop, rng)
	}
	t.Logf("%d changes", changes)
	h.restoreCatalogue(catalogue)
	l.mem = disk
	l.start()
}

// interrupted lets a merge and a flatten crash at a change, and compares everything
// after it, with what the crash left and again when the work is done. It returns how
// many changes there were.
func (h *history) interrupted(disk *vfs.Mem, catalogue []byte, stop int64, rng *rand.Rand) int64 {
	h.Helper()
	h.restoreCatalogue(catalogue)
	h.mem = disk.PowerCut(nil) // a copy; all is synced
	h.start()
	ctx, changes := h.crashAt(stop)
	_ = h.st.Remove(ctx, h.snaps[40].ID)
	_ = h.st.Remove(ctx, h.snaps[60].ID)
	_ = h.st.Flatten(ctx, h.image.ID)
	_ = h.st.Idle(ctx)
	if rng.IntN(2) == 0 {
		h.crash()
	} else {
		h.powerCut(nil)
	}
	h.fail(nil)
	h.start()
	when := fmt.Sprintf("after a crash at change %d", stop)
	h.over(when)
	h.idle()
	h.over(when + " and its repair")
	h.stop()
	return changes.Load()
}
