package layer

import (
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

func TestNextChunkSkipsWhatWasNeverWritten(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("l", 0o700); err != nil {
		t.Fatal(err)
	}
	env := &Env{FS: mem, Dir: "l", CacheID: "c"}
	const size = int64(1) << 50
	l, err := Create(env, Identity{ID: 1, Image: "i", Size: size})
	if err != nil {
		t.Fatal(err)
	}
	last := size/BlockSize/ChunkBlocks - 1
	want := []int64{0, 5, 16, 1 << 20, last}
	for i, c := range want {
		if err := l.Mark(c*ChunkBlocks+int64(i), 1, Zero); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			if err := l.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func() {
		t.Helper()
		next := int64(0)
		for _, c := range want {
			got, ok, err := l.NextChunk(next)
			if err != nil || !ok || got != c {
				t.Fatalf("after %d: %d, %v, %v, want %d", next, got, ok, err, c)
			}
			next = c + 1
		}
		if got, ok, err := l.NextChunk(next); ok || err != nil {
			t.Fatalf("after the last: %d, %v, %v", got, ok, err)
		}
	}
	check()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, _, err = Open(env, 1); err != nil {
		t.Fatal(err)
	}
	check()
	if found := l.Verify(true); len(found) > 0 {
		t.Error(found)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
