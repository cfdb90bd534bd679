package srcu

import (
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

// waiting runs Wait beside the test and answers a channel that is closed at its end.
func waiting(d *Domain) chan struct{} {
	done := make(chan struct{})
	go func() {
		d.Wait()
		close(done)
	}()
	return done
}

// blocked waits until a round is draining the phase, and checks that it goes on.
func blocked(t *testing.T, d *Domain, phase uint32, done chan struct{}) {
	t.Helper()
	for d.drains.Load() != phase+1 {
		select {
		case <-done:
			t.Fatal("Wait returned though a section is running")
		default:
			runtime.Gosched()
		}
	}
	for range 100 {
		runtime.Gosched()
	}
	select {
	case <-done:
		t.Fatal("Wait returned though a section is running")
	default:
	}
}

func TestWaitWithoutSections(t *testing.T) {
	var d Domain
	d.Wait()
	d.Exit(d.Enter())
	d.Wait()
}

func TestWaitForEarlierNotForLaterSections(t *testing.T) {
	var d Domain
	for range 4 { // both phases, twice
		phase := d.phase.Load()
		before := d.Enter()
		done := waiting(&d)
		blocked(t, &d, phase, done)
		after := d.Enter()
		d.Exit(before)
		<-done
		d.Exit(after)
	}
}

func TestSectionEndsOnAnotherGoroutine(t *testing.T) {
	var d Domain
	phase := d.phase.Load()
	token := d.Enter()
	done := waiting(&d)
	blocked(t, &d, phase, done)
	go d.Exit(token)
	<-done
}

// TestSectionCountedAfterAFlip stages what Enter may do when a round comes between
// its two steps: the section counts in the phase that is no longer current.
func TestSectionCountedAfterAFlip(t *testing.T) {
	var d Domain
	for range 2 {
		late := 1 - d.phase.Load()
		d.shards[3].sections[late].Add(1)
		done := waiting(&d)
		blocked(t, &d, late, done)
		d.Exit(Token(3<<1 | late))
		<-done
	}
}

// TestWaitsShareRounds: all that wait while a round runs are served by the next.
func TestWaitsShareRounds(t *testing.T) {
	var d Domain
	phase := d.phase.Load()
	token := d.Enter()
	done := waiting(&d)
	blocked(t, &d, phase, done)
	var all sync.WaitGroup
	for range 50 {
		need := d.next()
		all.Go(func() { d.waitFor(need) })
	}
	d.Exit(token)
	all.Wait()
	<-done
	if n := d.started.Load(); n != 2 {
		t.Fatalf("%d rounds for one Wait and 50 during it, want 2", n)
	}
}

// TestRunningRoundIsNotEnough: a Wait that is called while a round runs waits for
// sections that the round does not.
func TestRunningRoundIsNotEnough(t *testing.T) {
	var d Domain
	phase := d.phase.Load()
	early := d.Enter()
	first := waiting(&d)
	blocked(t, &d, phase, first)
	late := d.Enter()
	need := d.next()
	second := make(chan struct{})
	go func() {
		d.waitFor(need)
		close(second)
	}()
	d.Exit(early)
	<-first
	blocked(t, &d, 1-phase, second)
	d.Exit(late)
	<-second
}

// TestWaitEndsThoughSectionsNeverPause: there is always a section running.
func TestWaitEndsThoughSectionsNeverPause(t *testing.T) {
	var d Domain
	var stop atomic.Bool
	var ready, all sync.WaitGroup
	for range 4 {
		ready.Add(1)
		all.Go(func() {
			token := d.Enter()
			ready.Done()
			for !stop.Load() {
				next := d.Enter()
				d.Exit(token)
				token = next
				runtime.Gosched()
			}
			d.Exit(token)
		})
	}
	ready.Wait()
	for range 200 {
		d.Wait()
	}
	stop.Store(true)
	all.Wait()
}

// TestStress replaces an object that readers use, waits, and spoils the old one.
// The race detector, too, sees a reader that Wait has missed.
func TestStress(t *testing.T) {
	s := seed(t)
	type object struct{ good bool }
	var d Domain
	var current atomic.Pointer[object]
	current.Store(&object{good: true})
	var stop atomic.Bool
	var reads atomic.Int64
	var readers, writers sync.WaitGroup
	for w := range 6 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(s, uint64(w)))
			for !stop.Load() {
				token := d.Enter()
				o := current.Load()
				for range rng.IntN(4) {
					runtime.Gosched()
				}
				if !o.good {
					t.Error("a reader found an object that was spoiled")
				}
				d.Exit(token)
				reads.Add(1)
			}
		})
	}
	for range 3 {
		writers.Go(func() {
			for range 1000 {
				old := current.Swap(&object{good: true})
				d.Wait()
				old.good = false
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	t.Logf("%d reads, %d rounds for 3000 waits", reads.Load(), d.started.Load())
	for i := range d.shards {
		for phase := range 2 {
			if n := d.shards[i].sections[phase].Load(); n != 0 {
				t.Errorf("%d sections are left in shard %d", n, i)
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	var d Domain
	if n := testing.AllocsPerRun(100, func() { d.Exit(d.Enter()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSection(b *testing.B) {
	var d Domain
	for b.Loop() {
		d.Exit(d.Enter())
	}
}

func BenchmarkSectionParallel(b *testing.B) {
	var d Domain
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			d.Exit(d.Enter())
		}
	})
}

func BenchmarkWait(b *testing.B) {
	var d Domain
	for b.Loop() {
		d.Wait()
	}
}
