package vfs_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

var errBoom = errors.New("boom")

// everyOp runs one operation of each kind and answers their errors by kind. Its
// files exist already, so that failing one leaves the others possible.
func everyOp(t *testing.T, fsys vfs.FS, f vfs.File) map[vfs.Kind]error {
	t.Helper()
	got := map[vfs.Kind]error{}
	keep := func(file vfs.File, err error) error {
		if file != nil {
			t.Cleanup(func() { file.Close() })
		}
		return err
	}
	got[vfs.OpCreate] = keep(fsys.OpenFile("/made", os.O_RDWR|os.O_CREATE, 0o644))
	got[vfs.OpOpen] = keep(fsys.OpenFile("/f", os.O_RDWR, 0))
	got[vfs.OpRemove] = fsys.Remove("/doomed")
	got[vfs.OpRename] = fsys.Rename("/from", "/to")
	got[vfs.OpMkdir] = fsys.MkdirAll("/dir", 0o755)
	_, got[vfs.OpList] = fsys.List("/")
	got[vfs.OpSyncDir] = fsys.SyncDir("/")
	_, _, got[vfs.OpSpace] = fsys.Space("/")
	_, got[vfs.OpCacheID] = fsys.CacheID("/")
	_, got[vfs.OpRead] = f.ReadAt(make([]byte, 1), 0)
	_, got[vfs.OpWrite] = f.WriteAt([]byte("W"), 0)
	got[vfs.OpSync] = f.Sync()
	_, got[vfs.OpSize] = f.Size()
	_, got[vfs.OpAllocated] = f.Allocated()
	got[vfs.OpPunch] = f.PunchHole(0, 1)
	got[vfs.OpClone] = f.CloneRange(f, 0, 4096, 4)
	got[vfs.OpTruncate] = f.Truncate(9)
	got[vfs.OpDropCache] = f.DropCache(0, 1)
	got[vfs.OpAllocate] = vfs.Allocate(f, 0, 1)
	got[vfs.OpClose] = f.Close()
	return got
}

// prepared is a disk for everyOp.
func prepared(t *testing.T) *vfs.Mem {
	t.Helper()
	m, f := disk(t, "text")
	m.SetReflink(true)
	for _, name := range []string{"/doomed", "/from"} {
		must(t, open(t, m, name, os.O_RDWR|os.O_CREATE).Close())
	}
	must(t, m.SyncDir("/"))
	must(t, f.Close())
	return m
}

// state is all that a disk shows: names and content.
func state(t *testing.T, m *vfs.Mem) string {
	t.Helper()
	names, err := m.List("/")
	must(t, err)
	return fmt.Sprintf("%q %q", names, content(t, m, "/f"))
}

func TestEachOperationCanFailAlone(t *testing.T) {
	kinds := 0
	for kind := vfs.Kind(1); kind&vfs.Every != 0; kind <<= 1 {
		kinds++
		t.Run(kind.String(), func(t *testing.T) {
			m := prepared(t)
			var armed atomic.Bool
			p := vfs.NewFaulty(m, vfs.OnKind(kind, func(vfs.Op) error {
				if armed.Load() {
					return errBoom
				}
				return nil
			}))
			f := open(t, p, "/f", os.O_RDWR)
			armed.Store(true)
			got := everyOp(t, p, f)
			if len(got) != 20 {
				t.Fatalf("%d kinds are tried", len(got))
			}
			for k, err := range got {
				if errors.Is(err, errBoom) != (k == kind) || k != kind && err != nil {
					t.Errorf("%s answers %v", k, err)
				}
			}
			if err := got[kind]; err == nil || !strings.HasPrefix(err.Error(), kind.String()+" /") {
				t.Errorf("error %v does not name operation and path", err)
			}
		})
	}
	if kinds != 20 {
		t.Fatalf("%d kinds", kinds)
	}
}

func TestCrashEndsEveryOperation(t *testing.T) {
	m := prepared(t)
	p := vfs.NewFaulty(m, vfs.CrashAt(0))
	f := open(t, p, "/f", os.O_RDWR)
	before := state(t, m)
	if p.Crashed() {
		t.Fatal("crashed before a mutating operation")
	}
	for kind, err := range everyOp(t, p, f) {
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Errorf("%s answers %v after the crash", kind, err)
		}
	}
	if !p.Crashed() || state(t, m) != before {
		t.Fatalf("crashed %v, disk was %s and is %s", p.Crashed(), before, state(t, m))
	}
	if n := m.OpenCount(); n != 0 {
		t.Fatalf("%d files are still open", n)
	}
}

func TestCrashStopsAnOperationHeldUpBeforeIt(t *testing.T) {
	inOp, goOn := make(chan bool), make(chan bool)
	m := prepared(t)
	p := vfs.NewFaulty(m, vfs.OnKind(vfs.OpRename, func(vfs.Op) error {
		inOp <- true
		<-goOn
		return nil
	}))
	renamed := make(chan error)
	go func() { renamed <- p.Rename("/from", "/to") }()
	<-inOp
	p.Crash()
	before := state(t, m)
	goOn <- true
	wantErr(t, <-renamed, vfs.ErrCrashed)
	if after := state(t, m); after != before {
		t.Fatalf("disk was %s and is %s", before, after)
	}
}

func TestCrashAtEachOperation(t *testing.T) {
	for k := int64(0); ; k++ {
		m := prepared(t)
		p := vfs.NewFaulty(m, vfs.CrashAt(k))
		done := int64(0)
		f := open(t, p, "/f", os.O_RDWR)
		for kind, err := range everyOp(t, p, f) {
			if err == nil && kind&vfs.Mutating != 0 {
				done++
			}
		}
		if done != min(k, 11) {
			t.Fatalf("%d changes before the crash at %d", done, k)
		}
		if !p.Crashed() {
			if k != 11 {
				t.Fatalf("%d mutating operations", k)
			}
			return
		}
	}
}

func TestInjectors(t *testing.T) {
	var n atomic.Int64
	at := func(kind vfs.Kind, name string) vfs.Op { return vfs.Op{Kind: kind, Path: name} }
	write, sync := at(vfs.OpWrite, "/d/a.map"), at(vfs.OpSync, "/d/a.map")
	other := at(vfs.OpWrite, "/d/b.data")
	move := vfs.Op{Kind: vfs.OpRename, Path: "/x", To: "/d/a.map"}
	boom := vfs.Always(errBoom)
	for name, c := range map[string]struct {
		inj  vfs.Injector
		ops  []vfs.Op
		want string // x where the operation fails
	}{
		"always":    {boom, []vfs.Op{write, sync}, "xx"},
		"index":     {vfs.AtIndex(1, errBoom), []vfs.Op{write, sync, write}, ".x."},
		"from":      {vfs.FromIndex(1, errBoom), []vfs.Op{write, sync, write}, ".xx"},
		"kind":      {vfs.OnKind(vfs.OpSync|vfs.OpRename, boom), []vfs.Op{write, sync, move}, ".xx"},
		"base name": {vfs.OnPath("*.map", boom), []vfs.Op{write, other, move}, "x.x"},
		"full name": {vfs.OnPath("/d/*.data", boom), []vfs.Op{write, other}, ".x"},
		"bad glob":  {vfs.OnPath("[", boom), []vfs.Op{write, other}, ".."},
		"once":      {vfs.Once(vfs.OnKind(vfs.OpSync, boom)), []vfs.Op{write, sync, sync}, ".x."},
		"composed":  {vfs.OnKind(vfs.OpWrite, vfs.OnPath("*.map", vfs.AtIndex(1, errBoom))), []vfs.Op{write, sync, other, write, write}, "...x."},
		"first":     {vfs.First(vfs.AtIndex(0, errBoom), vfs.CountTo(&n), vfs.AtIndex(1, errBoom)), []vfs.Op{write, write, write, write}, "x.x."},
		"never":     {vfs.Random(1, 0, errBoom), []vfs.Op{write, write}, ".."},
		"surely":    {vfs.Random(1, 1, errBoom), []vfs.Op{write, write}, "xx"},
	} {
		if got := pattern(c.inj, c.ops); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if n.Load() != 3 {
		t.Errorf("%d operations counted, want 3", n.Load())
	}
}

func pattern(inj vfs.Injector, ops []vfs.Op) string {
	out := ""
	for _, op := range ops {
		if inj(op) != nil {
			out += "x"
		} else {
			out += "."
		}
	}
	return out
}

func TestRandomFollowsItsSeed(t *testing.T) {
	ops := make([]vfs.Op, 200)
	a, b, c := vfs.Random(7, 0.5, errBoom), vfs.Random(7, 0.5, errBoom), vfs.Random(8, 0.5, errBoom)
	first := pattern(a, ops)
	if second := pattern(b, ops); first != second {
		t.Errorf("one seed gives %s and %s", first, second)
	}
	if pattern(c, ops) == first {
		t.Error("two seeds give the same")
	}
	if n := strings.Count(first, "x"); n < 60 || n > 140 {
		t.Errorf("%d of 200 fail with probability 1/2", n)
	}
}

func TestCounting(t *testing.T) {
	c := vfs.NewCounting(vfs.NewMem())
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	write(t, f, 0, "hello")
	write(t, f, 9, "you")
	wantText(t, f, 0, "he")
	must(t, f.Sync())
	must(t, c.SyncDir("/"))
	must(t, f.PunchHole(0, 4096))
	check := func(what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	check("writes", c.Ops(vfs.OpWrite), 2)
	check("bytes written", c.Bytes(vfs.OpWrite), 8)
	check("bytes read", c.Bytes(vfs.OpRead), 2)
	check("syncs", c.Syncs(), 2)
	check("creations", c.Ops(vfs.OpCreate), 1)
	check("changes", c.Ops(vfs.Mutating), 6)
	check("all", c.Ops(vfs.Every), 7)
	check("punched", c.Bytes(vfs.OpPunch), 4096)
	c.Reset()
	check("after reset", c.Ops(vfs.Every)+c.Bytes(vfs.Every), 0)
}

func TestOpStrings(t *testing.T) {
	for want, op := range map[string]vfs.Op{
		"write /f [4096,+512)": {Kind: vfs.OpWrite, Path: "/f", Offset: 4096, Length: 512},
		"rename /a to /b":      {Kind: vfs.OpRename, Path: "/a", To: "/b"},
		"truncate /f to 10":    {Kind: vfs.OpTruncate, Path: "/f", Offset: 10},
		"sync /f":              {Kind: vfs.OpSync, Path: "/f"},
	} {
		if got := op.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (vfs.OpRead | vfs.OpSync).String(); got != "read|sync" {
		t.Errorf("set is %q", got)
	}
}
