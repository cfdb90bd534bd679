package layer

import (
	"path/filepath"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

func TestMarkDoesNotAllocate(t *testing.T) {
	l := benchLayer(t)
	must(t, l.Mark(0, 1, Data))
	block := int64(0)
	if n := testing.AllocsPerRun(100, func() {
		block += 2
		must(t, l.Mark(block, 1, Data))
	}); n >= 1 {
		t.Fatalf("a mark allocates %v times", n)
	}
}

// benchLayer is a layer on the real file system.
func benchLayer(b testing.TB) *Layer {
	b.Helper()
	env := &Env{FS: vfs.OS(), Dir: filepath.ToSlash(b.TempDir()), CacheID: "bench", Pages: NewPageCache(64 << 20)}
	l, err := CreateActive(env, Identity{ID: testID})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.Abandon)
	return l
}

// BenchmarkMark is one new block: one record, one pwrite.
func BenchmarkMark(b *testing.B) {
	l := benchLayer(b)
	b.ReportAllocs()
	block := int64(0)
	for b.Loop() {
		must(b, l.Mark(block*7%(8*pageBlocks), 1, State(1+block/(8*pageBlocks)%2)))
		block++
	}
}

// BenchmarkMarkNoChange is an overwrite of a block that is data already.
func BenchmarkMarkNoChange(b *testing.B) {
	l := benchLayer(b)
	must(b, l.Mark(0, 1, Data))
	b.ReportAllocs()
	for b.Loop() {
		must(b, l.Mark(0, 1, Data))
	}
}

// BenchmarkPwrite32 is what Mark cannot be faster than.
func BenchmarkPwrite32(b *testing.B) {
	l := benchLayer(b)
	var p [recordSize]byte
	off := int64(0)
	for b.Loop() {
		_, err := l.mapf.WriteAt(p[:], 2*headerSize+off%(1<<20))
		must(b, err)
		off += recordSize
	}
}

func BenchmarkLoadChunk(b *testing.B) {
	l := benchLayer(b)
	for no := range int64(64) {
		must(b, l.Mark(no*pageBlocks, 5, Data))
	}
	must(b, l.Checkpoint())
	for name, cache := range map[string]*PageCache{"cached": NewPageCache(1 << 20), "uncached": nil} {
		b.Run(name, func(b *testing.B) {
			l.env.Pages = cache
			var c Chunk
			i := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				_, err := l.LoadChunk(i%64*chunksPerPage, &c)
				must(b, err)
				i++
			}
		})
	}
}

// BenchmarkReplay opens a layer with 100,000 records in its journal.
func BenchmarkReplay(b *testing.B) {
	l := benchLayer(b)
	for i := range int64(90000) {
		must(b, l.Mark(i*11%(8*pageBlocks), 1, Data))
	}
	for b.Loop() {
		again, rec, err := Open(l.env, testID)
		must(b, err)
		if rec.Replayed < 80000 {
			b.Fatalf("replayed %d", rec.Replayed)
		}
		again.Abandon()
	}
}

func TestMarkOfOneBlockIsOneSmallWrite(t *testing.T) {
	counting := vfs.NewCounting(vfs.NewMem())
	env := testEnv(t, counting, 0)
	l := mustCreate(t, env)
	must(t, l.Mark(0, 1, Data))
	counting.Reset()
	block := int64(0)
	for range 100 {
		block += 2
		must(t, l.Mark(block, 1, Data))
	}
	if n, bytes := counting.Ops(vfs.Every), counting.Bytes(vfs.OpWrite); n != 100 || bytes != 100*recordSize {
		t.Fatalf("100 marks took %d operations and %d bytes", n, bytes)
	}
	before := counting.Ops(vfs.Every)
	must(t, l.Mark(2, 1, Data))
	if counting.Ops(vfs.Every) != before {
		t.Fatal("a mark that changes nothing touched the disk")
	}
}
