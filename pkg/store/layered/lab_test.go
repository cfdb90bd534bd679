package layered_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// lab is a rig whose layers lie on a disk in memory that can be full, fail, be
// damaged and lose power. The catalogue is a real file, durable at every commit.
type lab struct {
	*rig
	mem    *vfs.Mem
	proc   *vfs.Faulty
	inject atomic.Pointer[vfs.Injector]
	tune   func(*layered.Options)

	mu     sync.Mutex
	events []layered.Event
}

// newLab opens an empty store. It is closed at the end of the test, if it still runs;
// whether it checks clean is the test's business.
func newLab(t testing.TB, tune func(*layered.Options)) *lab {
	t.Helper()
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	l := &lab{rig: &rig{t, ctx, nil, dir}, mem: vfs.NewMem(), tune: tune}
	l.must(l.mem.MkdirAll("layers", 0o700))
	l.must(l.mem.SyncDir("."))
	l.start()
	t.Cleanup(func() {
		defer cancel()
		if l.st != nil {
			l.fail(nil)
			l.stop()
		}
	})
	return l
}

// start opens the store.
func (l *lab) start() {
	l.Helper()
	l.must(l.tryStart())
}

// tryStart opens the store; st is nil if it does not open.
func (l *lab) tryStart() (err error) {
	l.Helper()
	l.st = nil
	l.proc = vfs.NewFaulty(l.mem, func(op vfs.Op) error {
		if inject := l.inject.Load(); inject != nil {
			return (*inject)(op)
		}
		return nil
	})
	o := layered.Options{FS: l.proc, LayersDir: "layers", NoCatalogueSync: true, Reserve: -1, OnEvent: l.note}
	proc := l.proc
	o.BeforeCommit = func() error { // a process that has ended commits nothing
		if inject := l.inject.Load(); inject != nil {
			if err := (*inject)(vfs.Op{Kind: vfs.OpSync, Path: "catalogue.db"}); errors.Is(err, vfs.ErrCrashed) {
				proc.Crash()
			}
		}
		if proc.Crashed() {
			return vfs.ErrCrashed
		}
		return nil
	}
	if l.tune != nil {
		l.tune(&o)
	}
	st, err := layered.Open(l.dir, o)
	if err == nil {
		l.st = st
	}
	return err
}

func (l *lab) note(e layered.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// noted tells whether an event about an object contains a text.
func (l *lab) noted(object, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.events, func(e layered.Event) bool {
		return strings.Contains(e.Object, object) && strings.Contains(e.Text, text)
	})
}

// fail lets an injector decide from now on; nil fails nothing.
func (l *lab) fail(inject vfs.Injector) {
	if inject == nil {
		l.inject.Store(nil)
		return
	}
	l.inject.Store(&inject)
}

func (l *lab) stop() {
	l.Helper()
	st := l.st
	l.st = nil
	l.must(st.Close())
}

func (l *lab) restart() {
	l.Helper()
	l.stop()
	l.start()
}

// crash ends the process; the page cache stays.
func (l *lab) crash() {
	l.proc.Crash()
	if l.st != nil {
		l.st.Abandon()
	}
	l.mem.ProcessCrash()
}

// powerCut ends the machine: what was not synced is kept, torn or lost as rng
// decides, all lost if it is nil.
func (l *lab) powerCut(rng *rand.Rand) {
	l.proc.Crash()
	l.st.Abandon()
	l.mem = l.mem.PowerCut(rng)
}

// made lists the layers, as file names without their ending, that an action made and
// that are still there.
func (l *lab) made(action func()) []string {
	l.Helper()
	before := l.layerNames()
	action()
	return slices.DeleteFunc(l.layerNames(), func(n string) bool { return slices.Contains(before, n) })
}

func (l *lab) layerNames() (names []string) {
	l.Helper()
	all, err := l.mem.List("layers")
	l.must(err)
	for _, n := range all {
		if base, ok := strings.CutSuffix(n, ".map"); ok {
			names = append(names, base)
		}
	}
	return names
}

// edit changes a file of the layers behind the store's back.
func (l *lab) edit(name string, change func(f vfs.File) error) {
	l.Helper()
	f, err := l.mem.OpenFile(path.Join("layers", name), os.O_RDWR, 0)
	l.must(err)
	l.must(change(f))
	l.must(f.Sync())
	l.must(f.Close())
}

// want requires that a whole image or snapshot shows exactly some bytes.
func (r *rig) want(id store.ID, what string, want []byte) {
	r.Helper()
	got := r.read(id, 0, r.stat(id).Size)
	if len(got) != len(want) {
		r.Errorf("%s has %d bytes, want %d", what, len(got), len(want))
		return
	}
	for off := 0; off < len(want); off += 4096 {
		if !bytes.Equal(got[off:off+4096], want[off:off+4096]) {
			r.Errorf("%s differs from what was written, first at %d", what, off)
			return
		}
	}
}

// clean requires that nothing is left to do and that a deep check finds nothing.
func (r *rig) clean() {
	r.Helper()
	r.idle()
	problems, err := r.st.Check(r.ctx, true)
	r.must(err)
	for _, p := range problems {
		r.Errorf("check: %+v", p)
	}
}

// failed requires an error of a class whose text contains some words.
func (r *rig) failed(err, class error, words ...string) {
	r.Helper()
	if !errors.Is(err, class) {
		r.Errorf("answered %v, want %v", err, class)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			r.Errorf("the error %q does not say %q", err, w)
		}
	}
}

func containsAll(s string, words ...string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(s, w) })
}

func (l *lab) saveCatalogue() []byte {
	l.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, "catalogue.db"))
	l.must(err)
	return b
}

func (l *lab) restoreCatalogue(b []byte) {
	l.Helper()
	l.must(os.WriteFile(filepath.Join(l.dir, "catalogue.db"), b, 0o600))
}

// crashAt ends the process at a change of the disk or commit of the catalogue, counted
// from 0. The context ends
// with it. The count is that of all changes that were asked for.
func (l *lab) crashAt(n int64) (context.Context, *atomic.Int64) {
	changes := new(atomic.Int64)
	ctx, cancel := context.WithCancel(l.ctx)
	l.Cleanup(cancel)
	l.fail(vfs.OnKind(vfs.Mutating, func(vfs.Op) error {
		if changes.Add(1)-1 >= n {
			cancel()
			return vfs.ErrCrashed
		}
		return nil
	}))
	return ctx, changes
}
