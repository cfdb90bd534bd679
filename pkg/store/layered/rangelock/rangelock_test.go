package rangelock

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// seed is random unless STRATA_SEED replays an earlier one.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("STRATA_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("STRATA_SEED=%d", s)
	return s
}

// places is how many links all shards hold.
func (l *Locks) places() int {
	n := 0
	for i := range l.shard {
		s := &l.shard[i]
		s.mu.Lock()
		for at := s.first; at != nil; at = at.next {
			n++
		}
		s.mu.Unlock()
	}
	return n
}

// arrived waits until all shards together hold n links.
func (l *Locks) arrived(n int) {
	for l.places() != n {
		runtime.Gosched()
	}
}

// asked is a request of a test and what the model knows of it.
type asked struct {
	off, n  int64
	shared  bool
	granted chan Guard
	guard   Guard
	held    bool
}

func (a *asked) conflicts(b *asked) bool {
	return a.off < b.off+b.n && b.off < a.off+a.n && (!a.shared || !b.shared)
}

func (a *asked) String() string {
	kind := "exclusive"
	if a.shared {
		kind = "shared"
	}
	return fmt.Sprintf("%s [%d,+%d)", kind, a.off, a.n)
}

// links is how many shards the request is in.
func (a *asked) links() int {
	return int(min((a.off+a.n-1)>>regionBits-a.off>>regionBits+1, shards))
}

// TestGrantsInOrderOfArrival lets requests arrive one by one, unlocks held ones at
// random, and compares after each step which are granted: those, and only those,
// that conflict with no earlier one still there.
func TestGrantsInOrderOfArrival(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	for _, unit := range []int64{1, 4096, 1 << regionBits, 1 << 30} {
		var locks Locks
		var line []*asked
		total := 0
		for step := range 3000 {
			if len(line) == 0 || len(line) < 30 && rng.IntN(2) == 0 {
				a := &asked{off: rng.Int64N(64) * unit, n: 1 + rng.Int64N(8*unit), shared: rng.IntN(3) == 0, granted: make(chan Guard, 1)}
				line = append(line, a)
				total += a.links()
				go func() {
					if a.shared {
						a.granted <- locks.RLock(a.off, a.n)
					} else {
						a.granted <- locks.Lock(a.off, a.n)
					}
				}()
				locks.arrived(total)
			} else {
				line, total = unlockOne(rng, line, total)
			}
			checkGrants(t, step, line)
		}
		for len(line) > 0 {
			line, total = unlockOne(rng, line, total)
			checkGrants(t, -1, line)
		}
		locks.arrived(0)
	}
}

// unlockOne gives back one of the requests that are held.
func unlockOne(rng *rand.Rand, line []*asked, total int) ([]*asked, int) {
	for {
		i := rng.IntN(len(line))
		if a := line[i]; a.held {
			a.guard.Unlock()
			return append(line[:i:i], line[i+1:]...), total - a.links()
		}
	}
}

// checkGrants waits for the grants that are due and looks for others.
func checkGrants(t *testing.T, step int, line []*asked) {
	t.Helper()
	for i, a := range line {
		due := true
		for _, earlier := range line[:i] {
			due = due && !a.conflicts(earlier)
		}
		switch {
		case due && !a.held:
			a.guard = <-a.granted // a lost wake-up hangs here
			a.held = true
		case !due:
			select {
			case <-a.granted:
				t.Fatalf("step %d: %s was granted out of turn; line: %v", step, a, line)
			default:
			}
		}
	}
}

// TestStress checks under full concurrency that no two conflicting holds coexist.
func TestStress(t *testing.T) {
	s := seed(t)
	const cells, cell = 64, int64(100 << 10)
	var locks Locks
	var holders [cells]atomic.Int64 // shared holders, or -1
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(s, uint64(w)))
			for range 5000 {
				first := rng.IntN(cells)
				n := 1 + rng.IntN(min(cells-first, 1<<rng.IntN(7)))
				if rng.IntN(2) == 0 {
					g := locks.Lock(int64(first)*cell, int64(n)*cell)
					for i := first; i < first+n; i++ {
						if !holders[i].CompareAndSwap(0, -1) {
							t.Errorf("exclusive hold of %d beside another", i)
						}
					}
					for i := first; i < first+n; i++ {
						holders[i].Store(0)
					}
					g.Unlock()
				} else {
					g := locks.RLock(int64(first)*cell, int64(n)*cell)
					for i := first; i < first+n; i++ {
						if holders[i].Add(1) < 1 {
							t.Errorf("shared hold of %d beside an exclusive one", i)
						}
					}
					for i := first; i < first+n; i++ {
						holders[i].Add(-1)
					}
					g.Unlock()
				}
			}
		})
	}
	all.Wait()
	locks.arrived(0)
}

// TestNoConflictNoWait would hang if one of the requests waited.
func TestNoConflictNoWait(t *testing.T) {
	var locks Locks
	const size = 4 << 30
	guards := []Guard{
		locks.Lock(0, size),
		locks.Lock(size, 1),
		locks.Lock(size+1, size),
		locks.Lock(math.MaxInt64-1, 100), // ends at the largest offset
		locks.Lock(5, 0),
		locks.Lock(5, -1),
		{},
	}
	for range 3 {
		guards = append(guards, locks.RLock(3*size, 2*size))
	}
	for _, g := range guards {
		g.Unlock()
	}
	locks.arrived(0)
	locks.Lock(0, math.MaxInt64).Unlock()
}

// TestRangeBeyondTheLargestOffset: it ends there, and is held up to there.
func TestRangeBeyondTheLargestOffset(t *testing.T) {
	var locks Locks
	first := locks.Lock(math.MaxInt64-100, math.MaxInt64)
	second := make(chan Guard, 1)
	go func() { second <- locks.Lock(math.MaxInt64-1, 1) }()
	locks.arrived(2)
	select {
	case <-second:
		t.Fatal("the end of the range is not held")
	default:
	}
	first.Unlock()
	(<-second).Unlock()
}

// TestShardsOfARequest: a block takes one mutex, also at the end of a region.
func TestShardsOfARequest(t *testing.T) {
	const region = 1 << regionBits
	for _, c := range []struct {
		off, n int64
		want   int
	}{{0, 1, 1}, {region - 4096, 4096, 1}, {region - 1, 2, 2}, {0, 4 * region, 4}, {1, 15 * region, 16}, {0, 1 << 40, 16}} {
		var locks Locks
		g := locks.Lock(c.off, c.n)
		if got := locks.places(); got != c.want {
			t.Errorf("[%d,+%d) is in %d shards, want %d", c.off, c.n, got, c.want)
		}
		g.Unlock()
	}
}

func TestSecondUnlockPanics(t *testing.T) {
	for _, n := range []int64{1, 1 << 30} {
		var locks Locks
		g := locks.Lock(0, n)
		g.Unlock()
		again := locks.Lock(0, n) // uses the same memory
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a guard of %d bytes was unlocked twice", n)
				}
			}()
			g.Unlock()
		}()
		again.Unlock()
	}
}

func TestNoAllocation(t *testing.T) {
	var locks Locks
	for name, use := range map[string]func(){
		"one block":   func() { locks.Lock(8192, 4096).Unlock() },
		"shared":      func() { locks.RLock(8192, 4096).Unlock() },
		"two regions": func() { locks.Lock(1<<regionBits-1, 2).Unlock() },
		"4 GiB":       func() { locks.Lock(0, 4<<30).Unlock() },
	} {
		if n := testing.AllocsPerRun(100, use); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkUncontended(b *testing.B) {
	for name, n := range map[string]int64{"4KiB": 4096, "1MiB": 1 << 20, "4GiB": 4 << 30} {
		b.Run(name, func(b *testing.B) {
			var locks Locks
			for b.Loop() {
				locks.Lock(0, n).Unlock()
			}
		})
	}
	b.Run("4KiB beside 64 others", func(b *testing.B) {
		var locks Locks
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range int64(64) {
			defer locks.Lock(rng.Int64N(1<<20)<<20+i*4096, 4096).Unlock()
		}
		i := int64(0)
		for b.Loop() {
			i++
			locks.Lock(1<<45+(i*7919)%(1<<20)*4096, 4096).Unlock()
		}
	})
}

func BenchmarkParallel(b *testing.B) {
	var locks Locks
	var worker atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(1, uint64(worker.Add(1))))
		for pb.Next() {
			locks.Lock(rng.Int64N(1<<20)*4096, 4096).Unlock()
		}
	})
}
