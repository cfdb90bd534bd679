package layer

import (
	"bytes"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

func TestCreateIsExclusiveDurableAndCheap(t *testing.T) {
	mem := vfs.NewMem()
	counting := vfs.NewCounting(mem)
	env := testEnv(t, counting, 0)
	counting.Reset()
	want := Identity{ID: testID, Image: "i", Parent: 3, Overlap: 8192, Size: 1 << 40, Extra: json.RawMessage(`{"a":1}`)}
	l, err := Create(env, want)
	must(t, err)
	if f, d := counting.Ops(vfs.OpSync), counting.Ops(vfs.OpSyncDir); f != 1 || d != 1 {
		t.Fatalf("create took %d file syncs and %d directory syncs", f, d)
	}
	if _, err := Create(env, want); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("second create: %v, want ErrConflict", err)
	}
	_, _, l2, rec := cutPower(t, mem, env, nil)
	if rec.Lost || !l2.Empty() {
		t.Fatalf("recovery %+v", rec)
	}
	if got := l2.Identity(); !bytes.Equal(got.Extra, want.Extra) || got.Overlap != want.Overlap || got.Parent != 3 || got.Size != 1<<40 || got.Image != "i" {
		t.Fatalf("identity %+v", got)
	}
	if got, err := ReadIdentity(env, testID); err != nil || got.Parent != 3 {
		t.Fatalf("read identity: %+v, %v", got, err)
	}
	must(t, l.Close())
	must(t, Remove(env, testID))
	must(t, Remove(env, testID))
	if _, _, err := Open(env, testID); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("open after remove: %v, want ErrNotFound", err)
	}
}

func TestListAndParseName(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, minHalf)
	for _, id := range []uint64{300, 2, 1 << 60} {
		l, err := Create(env, Identity{ID: id})
		must(t, err)
		must(t, l.Close())
	}
	must(t, mem.Remove(env.DataPath(2)))
	f, err := mem.OpenFile("/layers/other.map", 0x42, 0)
	must(t, err)
	must(t, f.Close())
	if ids, err := List(env); err != nil || !slices.Equal(ids, []uint64{2, 300, 1 << 60}) {
		t.Fatalf("list: %v, %v", ids, err)
	}
	for _, name := range []string{"7.map", "00000000000000AB.map", "0000000000000007", "0000000000000007.mapx"} {
		if id, ok := ParseName(name); ok {
			t.Errorf("%q parsed as %d", name, id)
		}
	}
}

func TestFlushCostsAsFewSyncsAsItCan(t *testing.T) {
	mem := vfs.NewMem()
	counting := vfs.NewCounting(mem)
	l := mustCreate(t, testEnv(t, counting, bigHalf))
	write(t, l, 1, 1, 1)
	for _, c := range []struct {
		what string
		do   func()
		want int64
	}{
		{"a new block", func() { write(t, l, 2, 1, 1) }, 2},
		{"nothing", func() {}, 0},
		{"an overwrite", func() { write(t, l, 2, 1, 2) }, 1},
		{"a zero of no data", func() { must(t, l.Mark(9, 1, Zero)) }, 1},
		{"the same zero", func() { must(t, l.Mark(9, 1, Zero)) }, 0},
		{"a checkpoint and nothing", func() { write(t, l, 3, 1, 1); must(t, l.Checkpoint()) }, 0},
	} {
		must(t, l.Flush())
		c.do()
		counting.Reset()
		must(t, l.Flush())
		if n := counting.Syncs(); n != c.want {
			t.Errorf("flush after %s took %d syncs, want %d", c.what, n, c.want)
		}
	}
}

// A flush covers those who called before it began, and nobody else.
func TestConcurrentFlushesShare(t *testing.T) {
	mem := vfs.NewMem()
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	faulty := vfs.NewFaulty(mem, vfs.OnPath("*.data", vfs.OnKind(vfs.OpSync, func(vfs.Op) error {
		entered <- struct{}{}
		<-leave
		return nil
	})))
	l := mustCreate(t, testEnv(t, faulty, bigHalf))
	write(t, l, 1, 1, 1)
	var wg sync.WaitGroup
	flush := func() { wg.Go(func() { must(t, l.Flush()) }) }
	flush()
	<-entered
	write(t, l, 2, 1, 1)
	tickets := l.flushWant.Load()
	for range 20 {
		flush()
	}
	for l.flushWant.Load() < tickets+20 { // until they all stand behind the first
		runtime.Gosched()
	}
	leave <- struct{}{}
	<-entered
	close(leave)
	wg.Wait()
	if n := len(entered); n != 0 {
		t.Fatalf("%d syncs more than the first and one for all who waited", n)
	}
	_, _, l2, _ := cutPower(t, mem, l.env, nil)
	wantState(t, l2, 2, Data)
}

func TestRewriteAndSealReachTheDisk(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	write(t, l, 1, 1, 1)
	must(t, l.Rewrite(func(id *Identity) { id.Parent, id.Overlap, id.ID, id.Poison = 9, 4096, 1, "no" }))
	_, _, l2, _ := cutPower(t, mem, env, nil)
	if id := l2.Identity(); id.Parent != 9 || id.Overlap != 4096 || id.ID != testID || id.Poison != "" {
		t.Fatalf("identity %+v", id)
	}
	must(t, l.Seal())
	_, _, l2, _ = cutPower(t, mem, env, nil)
	wantState(t, l2, 1, Data)
	must(t, l.Mark(2, 1, Zero)) // filling goes on
	must(t, l.Checkpoint())
	_, _, l2, _ = cutPower(t, mem, env, nil)
	wantState(t, l2, 2, Zero)
	if !l2.Identity().Sealed {
		t.Fatal("not sealed on disk after a checkpoint")
	}
	err := l.Rewrite(func(id *Identity) { id.Image = strings.Repeat("x", maxIdentity) })
	if !errors.Is(err, store.ErrInvalid) || l.Identity().Parent != 9 {
		t.Fatalf("too long an identity: %v", err)
	}
}

func TestSealOfCleanLayerIsWrittenAtClose(t *testing.T) {
	env := testEnv(t, vfs.NewMem(), bigHalf)
	l := mustCreate(t, env)
	must(t, l.Seal())
	must(t, l.Close())
	if id, err := ReadIdentity(env, testID); err != nil || !id.Sealed {
		t.Fatalf("identity %+v, %v", id, err)
	}
}

func TestSealedJournalIsPunched(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	l := mustCreate(t, env)
	for b := range int64(10000) {
		must(t, l.Mark(2*b, 1, Zero))
	}
	must(t, l.Seal())
	must(t, l.Checkpoint())
	bytes, err := l.Allocated()
	must(t, err)
	if bytes > 64<<10 {
		t.Fatalf("a sealed layer with two pages takes %d bytes", bytes)
	}
	_, _, l2, _ := cutPower(t, mem, env, nil)
	wantState(t, l2, 19998, Zero)
	wantSound(t, l2)
}

func TestRangesAreChecked(t *testing.T) {
	l := mustCreate(t, testEnv(t, vfs.NewMem(), minHalf))
	end := int64(maxBlocks)
	for _, r := range []Run{{-1, 1, Data}, {0, 0, Data}, {0, -5, Zero}, {end, 1, Zero}, {end - 1, 2, Zero}, {1, 1 << 62, Zero}, {0, 1, 3}} {
		if err := l.Marks([]Run{{0, 1, Zero}, r}); !errors.Is(err, store.ErrRange) {
			t.Errorf("mark of %+v: %v, want ErrRange", r, err)
		}
	}
	must(t, l.Mark(end-1, 1, Zero))
	var c Chunk
	for _, no := range []int64{-1, end / ChunkBlocks} {
		if _, err := l.LoadChunk(no, &c); !errors.Is(err, store.ErrRange) {
			t.Errorf("chunk %d: %v, want ErrRange", no, err)
		}
	}
	if some, err := l.LoadChunk(end/ChunkBlocks-1, &c); err != nil || !some || c.Get(ChunkBlocks-1) != Zero {
		t.Fatalf("last chunk: %v, %v", some, err)
	}
}

func TestClosedLayerRefuses(t *testing.T) {
	l := mustCreate(t, testEnv(t, vfs.NewMem(), minHalf))
	must(t, l.Close())
	must(t, l.Close())
	l.Abandon()
	for what, err := range map[string]error{"mark": l.Mark(0, 1, Zero), "write": l.WriteData(make([]byte, 9), 0), "flush": l.Flush(),
		"checkpoint": l.Checkpoint(), "rewrite": l.Rewrite(func(*Identity) {}), "clean": l.MarkClean(), "poison": l.Poison("x")} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
}

func TestIdleLayerIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Layer{}); n > 768 {
		t.Fatalf("a layer is %d bytes", n)
	}
}

func TestCloneDataSharesOrRefuses(t *testing.T) {
	mem := vfs.NewMem()
	env := testEnv(t, mem, bigHalf)
	src := mustCreate(t, env)
	dst, err := Create(env, Identity{ID: testID + 1})
	must(t, err)
	write(t, src, 0, 8, 1)
	if err := dst.CloneData(src, 0, 8*BlockSize); !errors.Is(err, store.ErrUnsupported) || !errors.Is(err, vfs.ErrUnsupported) {
		t.Fatalf("clone without reflink: %v", err)
	}
	mem.SetReflink(true)
	must(t, dst.CloneData(src, 4*BlockSize, 4*BlockSize))
	must(t, dst.Mark(4, 4, Data))
	must(t, dst.Flush())
	e := on(t, env, mem.PowerCut(nil))
	l, _, err := Open(e, testID+1)
	must(t, err)
	wantState(t, l, 7, Data)
	if v := versions(t, l, 7); v[0] != 1 {
		t.Fatalf("content %v", v)
	}
	must(t, l.DropCache(0, 8*BlockSize))
}

func TestManyLayersOnRealFilesWithFewDescriptors(t *testing.T) {
	pool := vfs.NewPool(vfs.OS(), 4)
	env := &Env{FS: pool, Dir: t.TempDir(), CacheID: "c", Pages: NewPageCache(1 << 20), JournalHalf: minHalf}
	var layers []*Layer
	for id := range uint64(20) {
		l, err := Create(env, Identity{ID: id + 1})
		must(t, err)
		for b := range int64(150) { // more than the journal holds
			write(t, l, 2*b, 1, id+1)
		}
		must(t, l.Seal())
		must(t, l.Checkpoint())
		layers = append(layers, l)
	}
	if n := pool.OpenCount(); n > 4 {
		t.Errorf("%d sealed layers hold %d files open", len(layers), n)
	}
	for i, l := range layers {
		wantState(t, l, 298, Data)
		if v := versions(t, l, 298); v[3] != uint64(i+1) {
			t.Fatalf("content %v", v)
		}
		if i%2 == 0 {
			must(t, l.Close())
		} else {
			l.Abandon()
		}
		l, rec, err := Open(env, uint64(i+1))
		must(t, err)
		if rec.Clean != (i%2 == 0) {
			t.Fatalf("recovery %+v", rec)
		}
		wantState(t, l, 0, Data)
		wantSound(t, l)
		must(t, l.Close())
	}
}
