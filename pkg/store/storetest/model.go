package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// SeedVariable is the environment variable that names one seed to replay.
const SeedVariable = "STRATA_SEED"

// Options says how much the model checker does. Zero values mean the defaults.
type Options struct {
	// Seeds is how many random programs are run; default 200.
	Seeds int
	// Steps is the least number of structural operations in each program; default 32.
	Steps int
	// Ops is the least number of device and structural operations in each program;
	// default 1,100, so that 200 seeds make 200,000 operations and more.
	Ops int
	// Timeout bounds one program; default 3 minutes.
	Timeout time.Duration
}

func (o Options) filled() Options {
	if o.Seeds == 0 {
		o.Seeds = 200
	}
	if o.Ops == 0 {
		o.Ops = 1100
	}
	if o.Steps == 0 {
		o.Steps = 32
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Minute
	}
	return o
}

// tally counts what was done, over all seeds.
type tally struct {
	seeds, ops, steps, overlapped                 atomic.Int64
	snapshots, clones, flattens, removes, reverts atomic.Int64
	resizes, crashes, reopens, compared, diffs    atomic.Int64
	inflight, parted                              atomic.Int64
}

func (n *tally) String() string {
	return fmt.Sprintf("model: seeds=%d ops=%d snapshots=%d clones=%d flattens=%d crashes=%d reopens=%d "+
		"resizes=%d removes=%d reverts=%d diffs=%d steps=%d overlapped=%d parted=%d inflight-at-crash=%d compared=%dMiB",
		n.seeds.Load(), n.ops.Load(), n.snapshots.Load(), n.clones.Load(), n.flattens.Load(), n.crashes.Load(),
		n.reopens.Load(), n.resizes.Load(), n.removes.Load(), n.reverts.Load(), n.diffs.Load(), n.steps.Load(),
		n.overlapped.Load(), n.parted.Load(), n.inflight.Load(), n.compared.Load()>>20)
}

// Model runs random programs against the backend and against memstore and requires
// that every byte of every view, and the lineage, stay equal. See the package comment
// for what a program does. A failure names its seed; set STRATA_SEED to it to replay.
// The program of a seed is always the same; how its goroutines interleave is not.
func Model(t *testing.T, machine func(t *testing.T) Machine, o Options) {
	o = o.filled()
	first, seeds := baseSeed(t), o.Seeds
	if os.Getenv(SeedVariable) != "" {
		seeds = 1
	}
	var n tally
	t.Run("seeds", func(t *testing.T) {
		for i := range seeds {
			seed := first + uint64(i)
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				if err := runSeed(machine(t), seed, o, &n); err != nil {
					t.Fatalf("%s=%d: %v", SeedVariable, seed, err)
				}
			})
		}
	})
	t.Log(n.String())
	if n.overlapped.Load() != n.steps.Load() {
		t.Errorf("in %d of %d steps a structural operation did not begin while %d writers were under way, or the program failed",
			n.steps.Load()-n.overlapped.Load(), n.steps.Load(), together)
	}
}

// FirstSeedVariable is the environment variable that names the first seed of a run, so
// that the same programs can be run again. Without it they are new each time.
const FirstSeedVariable = "STRATA_FIRST_SEED"

// baseSeed is the seed to begin with: the one to replay, the one asked for, or a new
// one; it is printed.
func baseSeed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv(SeedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: %v", SeedVariable, text, err)
		}
		return seed
	}
	seed := uint64(rand.Uint32()) * 1000
	if text := os.Getenv(FirstSeedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%q: %v", FirstSeedVariable, text, err)
		}
	}
	t.Logf("first seed %d; %s=<seed> replays one", seed, SeedVariable)
	return seed
}

// runSeed runs one program. The error tells the end of the story that led to it.
func runSeed(m Machine, seed uint64, o Options, n *tally) error {
	o = o.filled()
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
	defer cancel()
	w, err := newWorld(ctx, m, seed, n)
	if err != nil {
		return err
	}
	if err := w.live(o.Steps, int64(o.Ops)); err != nil {
		const most = 40
		story := w.story[max(0, len(w.story)-most):]
		return fmt.Errorf("%w\nthe story so far, %d steps left out:\n%s", err, len(w.story)-len(story), strings.Join(story, "\n"))
	}
	n.seeds.Add(1)
	return nil
}

// live is a whole program: steps with comparisons in between, then the end.
func (w *world) live(steps int, ops int64) error {
	next := 0 // steps until the next comparison
	for n := 0; n < steps || w.ops < ops; n++ {
		ended, err := w.step()
		if err != nil {
			return err
		}
		if next--; next > 0 && !ended {
			continue
		}
		if err := w.compare(); err != nil {
			return err
		}
		next = 4 + w.rng.IntN(8)
	}
	return w.end()
}
