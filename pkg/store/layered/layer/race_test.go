package layer

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// TestEverythingAtOnce runs writers on blocks of their own beside flushes,
// checkpoints, clean marks, header changes and readers, on a journal that
// overflows all the time, then crashes.
func TestEverythingAtOnce(t *testing.T) {
	for _, seed := range seeds(t, 2) {
		t.Run("", func(t *testing.T) {
			newRand(t, seed)
			mem := vfs.NewMem()
			env := testEnv(t, mem, minHalf)
			env.MaxDirty = 2
			env.Pages = NewPageCache(pageCost)
			l := mustCreate(t, env)
			const writers, blocks, steps = 3, 8, 400
			last := [writers][blocks]State{}
			at := func(w, i int) int64 { return int64(i%4)*pageBlocks + int64(w*blocks+i) }
			var work, side sync.WaitGroup
			stop := make(chan struct{})
			for w := range writers {
				rng := rand.New(rand.NewPCG(seed, uint64(w)))
				work.Go(func() {
					for n := range steps {
						i := rng.IntN(blocks)
						s := State(rng.IntN(3))
						if s == Data {
							must(t, l.WriteData(pattern(at(w, i), 1, uint64(n+1)), at(w, i)*BlockSize))
						}
						must(t, l.Mark(at(w, i), 1, s))
						last[w][i] = s
						if got := stateOf(t, l, at(w, i)); got != s {
							t.Errorf("own block %d is %v after marking it %v", at(w, i), got, s)
							return
						}
					}
				})
			}
			runBeside(t, l, stop, &side)
			work.Wait()
			close(stop)
			side.Wait()
			l, _ = crashProcess(t, mem, l, env)
			for w := range writers {
				for i := range blocks {
					wantState(t, l, at(w, i), last[w][i])
				}
			}
			wantSound(t, l)
			must(t, l.Close())
		})
	}
}

// runBeside keeps everything but writes going until stop is closed.
func runBeside(t *testing.T, l *Layer, stop chan struct{}, wg *sync.WaitGroup) {
	t.Helper()
	rewrite := func() error { return l.Rewrite(func(id *Identity) { id.Size++ }) }
	look := func() error { l.Verify(true); l.Stats(); l.Identity(); return nil }
	for _, do := range []func() error{l.Flush, l.Checkpoint, l.MarkClean, rewrite, look} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := do(); err != nil && !errors.Is(err, store.ErrBusy) {
					t.Error(err)
					return
				}
			}
		})
	}
}
