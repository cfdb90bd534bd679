package export

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// burst is how much may be done at once after a pause, in time at the full rate.
const burst = 100 * time.Millisecond

// limiter keeps the requests of all connections to one image within its limits. They
// wait in the order in which they came. Without limits it costs one look at on. The
// zero value has none.
type limiter struct {
	on atomic.Bool // there are limits

	mu       sync.Mutex
	requests bucket
	bytes    bucket
	queue    list.List // of chan struct{}: those who wait, told when they should look
}

// bucket holds what may be done at once. Time fills it up to its depth; a request
// larger than that goes when it is full, and those behind it wait until its debt is
// paid.
type bucket struct {
	rate  float64 // per second; 0 is no bound
	level float64
	at    time.Time // when level was right
}

func (b *bucket) depth() float64 { return max(b.rate*burst.Seconds(), 1) }

func (b *bucket) fill(now time.Time) {
	b.level = min(b.level+b.rate*now.Sub(b.at).Seconds(), b.depth())
	b.at = now
}

// setRate keeps what time has brought. A debt takes as long to pay as before.
func (b *bucket) setRate(rate float64, now time.Time) {
	b.fill(now)
	switch {
	case b.rate == 0:
		b.level = rate // at most the depth, below
	case b.level < 0:
		b.level *= rate / b.rate
	}
	b.rate = rate
	b.level = min(b.level, b.depth())
}

// wait is how long until n may be taken, 0 for now.
func (b *bucket) wait(n float64) time.Duration {
	missing := min(n, b.depth()) - b.level
	if b.rate == 0 || missing <= 0 {
		return 0
	}
	return max(time.Duration(missing/b.rate*float64(time.Second)), 1)
}

// set changes the limits; those who wait go by the new ones.
func (l *limiter) set(limits store.Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.requests.setRate(float64(limits.IOPS), now)
	l.bytes.setRate(float64(limits.Bandwidth), now)
	l.on.Store(limits != store.Limits{})
	l.wake()
}

// wake tells the first who waits to look. mu is held.
func (l *limiter) wake() {
	if first := l.queue.Front(); first != nil {
		select {
		case first.Value.(chan struct{}) <- struct{}{}:
		default: // told already
		}
	}
}

// take waits until a request of n bytes may be served; false when cut closes first.
func (l *limiter) take(cut <-chan struct{}, n int64) bool {
	l.mu.Lock()
	if l.queue.Len() == 0 && l.pay(n) == 0 {
		l.mu.Unlock()
		return true
	}
	look := make(chan struct{}, 1)
	me := l.queue.PushBack(look)
	l.mu.Unlock()
	defer l.leave(me)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-look:
		case <-cut:
			return false
		}
		left := l.turn(me, n)
		if left == 0 {
			return true
		}
		if left > 0 {
			timer.Reset(left)
		}
	}
}

// turn lets the first of the queue pay. It returns how long it has to wait yet,
// negative for those who are not the first: they are told when they are.
func (l *limiter) turn(me *list.Element, n int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue.Front() != me {
		return -1
	}
	return l.pay(n)
}

// pay takes what a request of n bytes costs if that is there, else it tells how long
// it is missing. mu is held.
func (l *limiter) pay(n int64) time.Duration {
	now := time.Now()
	l.requests.fill(now)
	l.bytes.fill(now)
	if left := max(l.requests.wait(1), l.bytes.wait(float64(n))); left > 0 {
		return left
	}
	l.requests.level--
	l.bytes.level -= float64(n)
	return 0
}

// leave takes a request off the queue; if it was the first, the next one looks.
func (l *limiter) leave(me *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.queue.Front() == me
	l.queue.Remove(me)
	if first {
		l.wake()
	}
}
