package layer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// life is one process: a layer over a file system that crashes at its k-th change.
type life struct {
	env *Env
	m   *model
	rng *rand.Rand
}

// run does up to n random steps and tells whether the crash came.
func (f *life) run(t *testing.T, l *Layer, n int) bool {
	t.Helper()
	for range n {
		err := f.m.step(l, f.rng)
		switch {
		// A sync that the crash prevented poisons; a later call may be the one to say so.
		case errors.Is(err, vfs.ErrCrashed), errors.Is(err, store.ErrReadOnly):
			return true
		case err != nil:
			t.Fatal(err)
		}
	}
	return false
}

// recoverFrom opens the layer after a crash of the process, or of the machine when
// rng is not nil, and checks it against the model.
func recoverFrom(t *testing.T, mem *vfs.Mem, env *Env, m *model, rng *rand.Rand) *vfs.Mem {
	t.Helper()
	if rng != nil {
		mem = mem.PowerCut(rng)
	}
	l, rec := mustOpen(t, on(t, env, mem))
	if rec.Poison != "" {
		t.Fatalf("poisoned: %s", rec.Poison)
	}
	// An earlier loss stays visible until something is written.
	earlier := rng == nil && rec.NewCache && m.acked == 0 && !m.dirty
	if rec.NewCache != (rng != nil) && !earlier || rec.Lost && !rec.NewCache || rec.NewCache && m.dirty && !rec.Lost {
		t.Fatalf("power cut %v, unflushed %v, recovery %+v", rng != nil, m.dirty, rec)
	}
	m.adopt(t, l, rng != nil)
	wantSound(t, l)
	l.Abandon()
	return mem
}

// TestCrashAtEveryChange crashes a fixed script at each change of the disk, as a
// crash of the process and as several losses of power.
func TestCrashAtEveryChange(t *testing.T) {
	seed := seeds(t, 1)[0]
	newRand(t, seed)
	const steps = 45
	script := func(inject vfs.Injector) (*vfs.Mem, *Env, *model, bool) {
		mem := vfs.NewMem()
		env := testEnv(t, mem, bigHalf)
		l := mustCreate(t, env)
		l.Abandon()
		faulty := vfs.NewFaulty(mem, inject)
		env = on(t, env, faulty)
		l, _ = mustOpen(t, env)
		f := &life{env, newModel(), rand.New(rand.NewPCG(seed, 2))}
		crashed := f.run(t, l, steps)
		if !crashed {
			if err := l.Close(); err == nil {
				f.m.flushed()
			} else {
				crashed = true
				f.m.dirty = false // it may have got as far as the flush
			}
		}
		faulty.Crash()
		l.Abandon()
		mem.ProcessCrash()
		return mem, env, f.m, crashed
	}
	var total atomic.Int64
	if _, _, _, crashed := script(vfs.OnKind(vfs.Mutating, vfs.CountTo(&total))); crashed {
		t.Fatal("crashed without a cause")
	}
	stride := int64(1)
	if testing.Short() {
		stride = 5
	}
	for k := int64(0); k < total.Load(); k += stride {
		mem, env, m, crashed := script(vfs.CrashAt(k))
		if !crashed {
			t.Fatalf("no crash at change %d of %d", k, total.Load())
		}
		for cut := range uint64(3) {
			m2 := m.fork()
			after := recoverFrom(t, mem, env, m2, rand.New(rand.NewPCG(seed+cut, uint64(k))))
			goOn(t, after, env, m2, rand.New(rand.NewPCG(seed, cut)))
		}
		recoverFrom(t, mem, env, m, nil)
		goOn(t, mem, env, m, rand.New(rand.NewPCG(seed, 9)))
	}
}

// goOn works on after a recovery, crashes at some point and recovers again.
func goOn(t *testing.T, mem *vfs.Mem, env *Env, m *model, rng *rand.Rand) {
	t.Helper()
	faulty := vfs.NewFaulty(mem, vfs.CrashAt(rng.Int64N(40)))
	l, _ := mustOpen(t, on(t, env, faulty))
	f := &life{env, m, rng}
	f.run(t, l, 30)
	faulty.Crash()
	l.Abandon()
	mem.ProcessCrash()
	if rng.IntN(2) == 0 {
		recoverFrom(t, mem, env, m, rng)
	} else {
		recoverFrom(t, mem, env, m, nil)
	}
}

func (m *model) fork() *model {
	c := *m
	c.states = slices.Clone(m.states)
	c.content = slices.Clone(m.content)
	for i := range c.content {
		c.content[i].since = slices.Clone(c.content[i].since)
	}
	return &c
}

// TestManyLives runs random work through many crashes of both kinds, with a
// journal so small that checkpoints run in the background all the time.
func TestManyLives(t *testing.T) {
	n := 6
	if testing.Short() {
		n = 3
	}
	for _, seed := range seeds(t, n) {
		t.Run("", func(t *testing.T) {
			rng := newRand(t, seed)
			mem := vfs.NewMem()
			env := testEnv(t, mem, minHalf)
			env.MaxDirty = 2
			mustCreate(t, env).Abandon()
			m := newModel()
			for range 40 {
				faulty := vfs.NewFaulty(mem, vfs.CrashAt(rng.Int64N(400)))
				e := on(t, env, faulty)
				e.Pages = NewPageCache(rng.Int64N(4) * pageCost)
				l, _ := mustOpen(t, e)
				f := &life{e, m, rng}
				f.run(t, l, 200)
				faulty.Crash()
				l.Abandon()
				mem.ProcessCrash()
				cut := rng
				if rng.IntN(2) == 0 {
					cut = nil
				}
				mem = recoverFrom(t, mem, env, m, cut)
			}
		})
	}
}

// TestRandomAgainstModel has no crashes, but reopens.
func TestRandomAgainstModel(t *testing.T) {
	for _, seed := range seeds(t, 4) {
		t.Run("", func(t *testing.T) {
			rng := newRand(t, seed)
			mem := vfs.NewMem()
			env := testEnv(t, mem, minHalf)
			env.MaxDirty = 3
			env.Pages = NewPageCache(2 * pageCost)
			l := mustCreate(t, env)
			m := newModel()
			for i := range 3000 {
				if err := m.step(l, rng); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if rng.IntN(200) == 0 {
					must(t, l.Close())
					var rec Recovery
					l, rec = mustOpen(t, env)
					if !rec.Clean || rec.Replayed != 0 {
						t.Fatalf("closed, but recovery %+v", rec)
					}
					m.flushed()
					m.adopt(t, l, false)
				}
			}
			wantSound(t, l)
			must(t, l.Close())
			if n := mem.OpenCount(); n != 0 {
				t.Fatalf("%d files are still open", n)
			}
		})
	}
}
