package layer

import (
	"encoding/binary"
	"flag"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// seedFlag makes a random test repeat one run.
var seedFlag = flag.Uint64("seed", 0, "seed of random tests; 0 takes STRATA_SEED, else a fresh one")

// seeds are what a random test runs with: one given, or n fresh ones, which are printed
// before anything can fail.
func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	base := *seedFlag
	if env := os.Getenv("STRATA_SEED"); base == 0 && env != "" {
		v, err := strconv.ParseUint(env, 0, 64)
		if err != nil {
			t.Fatalf("STRATA_SEED: %v", err)
		}
		base = v
	}
	if base != 0 {
		return []uint64{base}
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = rand.Uint64()
	}
	t.Logf("seeds %d; STRATA_SEED=<seed> replays one", out)
	return out
}

func newRand(t *testing.T, seed uint64) *rand.Rand {
	t.Helper()
	t.Logf("replay with STRATA_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

const testID = 7

// testEnv is an environment on fs with small journal halves.
func testEnv(t testing.TB, fs vfs.FS, half int64) *Env {
	t.Helper()
	if err := fs.MkdirAll("/layers", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := fs.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	return &Env{FS: fs, Dir: "/layers", CacheID: cacheID(t, fs), Pages: NewPageCache(1 << 20), JournalHalf: half}
}

func cacheID(t testing.TB, fs vfs.FS) string {
	t.Helper()
	id, err := fs.CacheID("/layers")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// on is the same environment over another file system.
func on(t testing.TB, env *Env, fs vfs.FS) *Env {
	t.Helper()
	e := *env
	e.FS, e.CacheID, e.Pages = fs, cacheID(t, fs), NewPageCache(1<<20)
	return &e
}

func mustCreate(t testing.TB, env *Env) *Layer {
	t.Helper()
	l, err := Create(env, Identity{ID: testID, Image: "image"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustOpen(t testing.TB, env *Env) (*Layer, Recovery) {
	t.Helper()
	l, rec, err := Open(env, testID)
	if err != nil {
		t.Fatal(err)
	}
	return l, rec
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes a pattern to blocks and marks them.
func write(t testing.TB, l *Layer, block, n int64, version uint64) {
	t.Helper()
	must(t, l.WriteData(pattern(block, n, version), block*BlockSize))
	must(t, l.Mark(block, n, Data))
}

// pattern is n blocks whose every sector names the block and the version.
func pattern(block, n int64, version uint64) []byte {
	p := make([]byte, n*BlockSize)
	for at := 0; at < len(p); at += 512 {
		for j := 0; j < 512; j += 16 {
			binary.LittleEndian.PutUint64(p[at+j:], uint64(block)+uint64(at/BlockSize))
			binary.LittleEndian.PutUint64(p[at+j+8:], version)
		}
	}
	return p
}

// versions reads back what each sector of a block holds; 0 for zeros.
func versions(t testing.TB, l *Layer, block int64) (out [8]uint64) {
	t.Helper()
	var p [BlockSize]byte
	must(t, l.ReadData(p[:], block*BlockSize))
	for k := range out {
		out[k] = sectorVersion(t, p[k*512:(k+1)*512], block)
	}
	return out
}

func sectorVersion(t testing.TB, p []byte, block int64) uint64 {
	t.Helper()
	if allZero(p) {
		return 0
	}
	v := binary.LittleEndian.Uint64(p[8:])
	for j := 0; j < 512; j += 16 {
		if binary.LittleEndian.Uint64(p[j:]) != uint64(block) || binary.LittleEndian.Uint64(p[j+8:]) != v {
			t.Fatalf("block %d holds bytes that were never written there", block)
		}
	}
	return v
}

func stateOf(t testing.TB, l *Layer, block int64) State {
	t.Helper()
	var c Chunk
	if _, err := l.LoadChunk(block/ChunkBlocks, &c); err != nil {
		t.Fatal(err)
	}
	return c.Get(int(block % ChunkBlocks))
}

func wantState(t testing.TB, l *Layer, block int64, want State) {
	t.Helper()
	if got := stateOf(t, l, block); got != want {
		t.Fatalf("block %d is %v, want %v", block, got, want)
	}
}

func wantSound(t testing.TB, l *Layer) {
	t.Helper()
	for _, err := range l.Verify(true) {
		t.Errorf("verify: %v", err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// crashProcess drops the layer without a write or sync and opens it again.
func crashProcess(t testing.TB, mem *vfs.Mem, l *Layer, env *Env) (*Layer, Recovery) {
	t.Helper()
	mem.ProcessCrash()
	l.Abandon()
	return mustOpen(t, on(t, env, mem))
}

// cutPower opens the layer on a disk that lost everything unsynced, or with rng a
// random part of it.
func cutPower(t testing.TB, mem *vfs.Mem, env *Env, rng *rand.Rand) (*vfs.Mem, *Env, *Layer, Recovery) {
	t.Helper()
	cut := mem.PowerCut(rng)
	e := on(t, env, cut)
	l, rec := mustOpen(t, e)
	return cut, e, l, rec
}

// poke changes bytes of a file behind everyone's back.
func poke(t testing.TB, fs vfs.FS, name string, off int64, change func(b []byte)) {
	t.Helper()
	f, err := fs.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 32)
	must(t, readFull(f, b, off))
	change(b)
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Sync())
}

func flip(b []byte) { b[5] ^= 0x10 }

// resum makes a changed header slot's checksum right again.
func resum(raw []byte) {
	binary.LittleEndian.PutUint32(raw[8:], crc32.Checksum(raw[12:], castagnoli()))
}
