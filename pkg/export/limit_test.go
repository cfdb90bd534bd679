package export

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// times runs n requests of some bytes by several clients and returns when each was
// admitted, counted from the start.
func times(l *limiter, clients, n int, bytes int64) []time.Duration {
	start := time.Now()
	var mu sync.Mutex
	var at []time.Duration
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range n / clients {
				l.take(nil, bytes)
				mu.Lock()
				at = append(at, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(at)
	return at
}

// wantRate requires that no more than a burst and the rate's share was admitted by any
// time, and that nobody waited for longer than that explains.
func wantRate(t *testing.T, at []time.Duration, each, rate float64) {
	t.Helper()
	const slack = 1e-6
	depth := max(rate*burst.Seconds(), 1)
	for i, when := range at {
		done := float64(i) * each // before this one
		if most := depth + rate*when.Seconds(); done+min(each, depth) > most+slack*most {
			t.Fatalf("request %d is admitted after %v: %g are done, %g are allowed", i, when, done, most)
		}
		if least := max(0, (done+min(each, depth)-depth)/rate); when.Seconds() > least+slack*least+1e-6 {
			t.Fatalf("request %d is admitted after %v and could have been after %gs", i, when, least)
		}
	}
}

func TestRates(t *testing.T) {
	for name, c := range map[string]struct {
		limits     store.Limits
		bytes      int64
		each, rate float64
	}{
		"requests":            {store.Limits{IOPS: 1000}, 4096, 1, 1000},
		"few requests":        {store.Limits{IOPS: 3}, 4096, 1, 3},
		"bytes":               {store.Limits{Bandwidth: 10 << 20}, 64 << 10, 64 << 10, 10 << 20},
		"bytes in large":      {store.Limits{Bandwidth: 1 << 20}, 4 << 20, 4 << 20, 1 << 20},
		"both, requests bite": {store.Limits{IOPS: 100, Bandwidth: 1 << 40}, 4096, 1, 100},
		"both, bytes bite":    {store.Limits{IOPS: 1 << 40, Bandwidth: 1 << 20}, 512, 512, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l limiter
				l.set(c.limits)
				for range 2 { // the second time after a pause, which fills no more than a burst
					wantRate(t, times(&l, 8, 400, c.bytes), c.each, c.rate)
					<-time.After(time.Hour) // of the fake clock
				}
			})
		})
	}
}

// Requests are served in the order in which they came, whoever sent them.
func TestLimitIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.set(store.Limits{IOPS: 10, Bandwidth: 1 << 20})
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				l.take(nil, int64(1+i%5*(1<<18)))
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait() // it is in the queue
		}
		wg.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("served in the order %v", order)
		}
	})
}

// A change of the limits holds for those who wait already.
func TestLimitsChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.set(store.Limits{Bandwidth: 1})
		l.take(nil, 1<<20) // days of debt
		done := make(chan time.Duration, 10)
		start := time.Now()
		for range 10 {
			go func() {
				l.take(nil, 1<<20)
				done <- time.Since(start)
			}()
		}
		<-time.After(time.Minute)
		if len(done) > 0 {
			t.Fatal("a request did not wait")
		}
		l.set(store.Limits{IOPS: 5})
		for range 10 {
			<-done
		}
		if took := time.Since(start); took < time.Minute+9*time.Second/5-time.Millisecond || took > time.Minute+2*time.Second {
			t.Errorf("with 5 a second, 10 requests took %v", took)
		}
		l.set(store.Limits{Bandwidth: 1})
		l.take(nil, 1<<30)
		go func() {
			l.take(nil, 1)
			done <- time.Since(start)
		}()
		synctest.Wait()
		now := time.Since(start)
		l.set(store.Limits{})
		if got := <-done; got != now {
			t.Errorf("with limits lifted a request waits for %v", got-now)
		}
	})
}

// A debt made at a high rate is not owed for ever at a low one.
func TestLimitDebtIsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.set(store.Limits{Bandwidth: 1 << 20})
		l.take(nil, 2<<20)
		l.set(store.Limits{Bandwidth: 1 << 10})
		start := time.Now()
		l.take(nil, 1)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("two seconds' worth of debt took %v", took)
		}
	})
}

// Who is cut while waiting goes at once and costs the others nothing.
func TestLimitCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.set(store.Limits{IOPS: 1})
		l.take(nil, 0)
		cut := make(chan struct{})
		ended := make(chan bool, 5)
		for range 5 {
			go func() { ended <- l.take(cut, 0) }()
		}
		synctest.Wait()
		start := time.Now()
		last := make(chan bool)
		go func() { last <- l.take(nil, 0) }()
		synctest.Wait()
		close(cut)
		for range 5 {
			if <-ended {
				t.Error("a request that was cut is served")
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("being cut took %v", took)
		}
		<-last
		if took := time.Since(start); took > time.Second {
			t.Errorf("the one behind those waited for %v", took)
		}
		if l.queue.Len() != 0 {
			t.Errorf("%d are left in the queue", l.queue.Len())
		}
	})
}

// Within its limits a request costs no memory, without limits not even a lock.
func TestLimitCosts(t *testing.T) {
	e := &export{o: &object{}}
	e.o.limit.mu.Lock()
	if n := testing.AllocsPerRun(100, func() { e.Admit(4096) }); n != 0 {
		t.Errorf("without limits a request allocates %g times", n)
	}
	e.o.limit.mu.Unlock()
	e.o.limit.set(store.Limits{IOPS: 1 << 40, Bandwidth: 1 << 50})
	if n := testing.AllocsPerRun(100, func() { e.Admit(4096) }); n != 0 {
		t.Errorf("within its limits a request allocates %g times", n)
	}
}
