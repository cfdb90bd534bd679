package layer

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// someSums are checksums of a few chunks, from sparse to full.
func someSums(rng *rand.Rand) map[int64]*ChunkSums {
	all := map[int64]*ChunkSums{}
	for range 6 {
		c := new(ChunkSums)
		for i := 0; i < ChunkBlocks; i += 1 + rng.IntN(1+rng.IntN(300)) {
			c.Set(i, rng.Uint32())
		}
		all[rng.Int64N(40)] = c
	}
	return all
}

func addSums(t *testing.T, w *SumWriter, all map[int64]*ChunkSums, end int64) {
	t.Helper()
	for chunk := w.Next(); chunk < end; chunk++ {
		if c := all[chunk]; c != nil {
			must(t, w.Add(chunk, c))
		}
	}
}

// wantSums requires that a file says exactly this; holes are asked for as well.
func wantSums(t *testing.T, env *Env, all map[int64]*ChunkSums) {
	t.Helper()
	r, err := OpenSums(env, testID)
	must(t, err)
	defer r.Close()
	for chunk := range int64(45) {
		got, err := r.At(chunk)
		must(t, err)
		want := all[chunk]
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Fatalf("chunk %d: got %v, want %v", chunk, got != nil, want != nil)
		}
	}
}

func TestSums(t *testing.T) {
	for _, seed := range seeds(t, 5) {
		rng := newRand(t, seed)
		mem := vfs.NewMem()
		env := testEnv(t, mem, minHalf)
		if _, err := OpenSums(env, testID); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("without a file: %v", err)
		}
		all := someSums(rng)
		w, err := WriteSums(env, testID)
		must(t, err)
		addSums(t, w, all, 20)
		if _, err := OpenSums(env, testID); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("before the commit: %v", err)
		}
		w.Keep()
		w, err = WriteSums(env, testID)
		must(t, err)
		addSums(t, w, all, 40)
		must(t, w.Commit())
		env = on(t, env, mem.PowerCut(nil))
		wantSums(t, env, all)
		w, err = WriteSums(env, testID) // the next ones replace them at once
		must(t, err)
		if w.Next() != 0 {
			t.Fatalf("new ones begin at chunk %d", w.Next())
		}
		wantSums(t, env, all)
		w.Abort()
		wantSums(t, env, all)
		must(t, RemoveSums(env, testID))
		must(t, RemoveSums(env, testID))
		if names, _ := env.FS.List("/layers"); len(names) != 0 {
			t.Fatalf("left: %v", names)
		}
	}
}

// Whatever a power cut leaves of unfinished ones, the writer goes on behind what is
// whole, and a commit puts the whole in place or nothing.
func TestSumsAfterPowerCuts(t *testing.T) {
	for _, seed := range seeds(t, 30) {
		rng := newRand(t, seed)
		mem := vfs.NewMem()
		env := testEnv(t, mem, minHalf)
		all := someSums(rng)
		for end := int64(8); end < 40; end += 8 {
			w, err := WriteSums(env, testID)
			must(t, err)
			addSums(t, w, all, end)
			mem = mem.PowerCut(rng)
			w.Keep()
			env = on(t, env, mem)
		}
		w, err := WriteSums(env, testID)
		must(t, err)
		addSums(t, w, all, 40)
		must(t, w.Commit())
		wantSums(t, env, all)
	}
}

// A changed byte anywhere is noticed before what it is part of is believed.
func TestSumsAreChecked(t *testing.T) {
	rng := newRand(t, seeds(t, 1)[0])
	mem := vfs.NewMem()
	env := testEnv(t, mem, minHalf)
	all := someSums(rng)
	w, err := WriteSums(env, testID)
	must(t, err)
	addSums(t, w, all, 40)
	size := w.at
	must(t, w.Commit())
	for range 300 {
		at := rng.Int64N(size)
		off := min(at, size-32) // poke must not make the file longer
		change := func(b []byte) { b[at-off] ^= 1 << (at % 8) }
		poke(t, mem, env.SumsPath(testID), off, change)
		if !noticed(t, env, all) {
			t.Fatalf("a change at byte %d of %d is not noticed", at, size)
		}
		poke(t, mem, env.SumsPath(testID), off, change)
	}
	wantSums(t, env, all)
}

// noticed reads all and requires that what is believed is right.
func noticed(t *testing.T, env *Env, all map[int64]*ChunkSums) bool {
	t.Helper()
	r, err := OpenSums(env, testID)
	if err != nil {
		return errors.Is(err, store.ErrCorrupt)
	}
	defer r.Close()
	for chunk := range int64(45) {
		got, err := r.At(chunk)
		if err != nil {
			return errors.Is(err, store.ErrCorrupt)
		}
		if want := all[chunk]; got != nil && (want == nil || *got != *want) {
			t.Fatalf("chunk %d is believed and wrong", chunk)
		}
	}
	return false
}
