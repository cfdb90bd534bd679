package nbd

import (
	"container/list"
	"sync"
	"time"
)

// budget bounds bytes, in total and per tenant. Of those who wait, tenants that hold
// the least come first, and each tenant's own requests in the order in which they
// came. Nobody starves: a tenant that waits for long holds nothing in the end, and
// among those who hold nothing the first is first. Small requests do not overtake a
// large one whose turn it is.
type budget struct {
	limit int64
	// most is what one tenant may hold. A single request of up to limit is always
	// admitted if its tenant holds nothing.
	most int64

	mu      sync.Mutex
	used    int64
	peak    int64
	round   uint64
	waiters list.List // of *waiter
}

// tenant is one user of a budget, whose mutex guards it.
type tenant struct {
	used int64
	seen uint64 // the last round of next that came across it
}

type waiter struct {
	of    *tenant
	n     int64
	ready chan struct{}
}

// room tells whether the tenant may hold n more bytes. mu is held, as it is for
// all methods without a comment of their own on that.
func (b *budget) room(of *tenant, n int64) bool {
	return of.used == 0 || of.used+n <= b.most
}

// ask takes n bytes or queues for them; queued is nil if it has got them.
func (b *budget) ask(of *tenant, n int64) (queued *list.Element) {
	if b.waiters.Len() == 0 && b.used+n <= b.limit && b.room(of, n) {
		b.charge(of, n)
		return nil
	}
	w := &waiter{of: of, n: n, ready: make(chan struct{})}
	e := b.waiters.PushBack(w)
	b.grant()
	if w.granted() {
		return nil
	}
	return e
}

// granted needs no lock.
func (w *waiter) granted() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

func (b *budget) charge(of *tenant, n int64) {
	of.used += n
	b.used += n
	b.peak = max(b.peak, b.used)
}

// grant admits waiters as long as there are bytes for the next one.
func (b *budget) grant() {
	for e := b.next(); e != nil; e = b.next() {
		w := e.Value.(*waiter)
		if b.used+w.n > b.limit {
			return
		}
		b.charge(w.of, w.n)
		b.waiters.Remove(e)
		close(w.ready)
	}
}

// next is whose turn it is: the first waiter of the tenant that holds the least,
// leaving out tenants without room for theirs.
func (b *budget) next() (best *list.Element) {
	b.round++
	for e := b.waiters.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		if w.of.seen == b.round {
			continue
		}
		w.of.seen = b.round
		if b.room(w.of, w.n) && (best == nil || w.of.used < best.Value.(*waiter).of.used) {
			best = e
		}
	}
	return best
}

// try is take without waiting. It locks mu.
func (b *budget) try(of *tenant, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.ask(of, n); e != nil {
		b.waiters.Remove(e)
		return false
	}
	return true
}

// take takes n bytes, n <= limit. It waits for them unless cancel closes first, and
// calls press every tick while it waits; own tells that the bytes it waits for are
// those of its own tenant. It locks mu.
func (b *budget) take(of *tenant, n int64, cancel <-chan struct{}, tick time.Duration, press func(own bool)) bool {
	b.mu.Lock()
	e := b.ask(of, n)
	b.mu.Unlock()
	if e == nil {
		return true
	}
	w := e.Value.(*waiter)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-w.ready:
			return true
		case <-cancel:
			b.withdraw(w, e)
			return false
		case <-t.C:
			b.mu.Lock()
			own := !b.room(of, n)
			b.mu.Unlock()
			press(own)
		}
	}
}

// withdraw ends a waiter that no longer wants its bytes. It locks mu.
func (b *budget) withdraw(w *waiter, e *list.Element) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.granted() { // in the meantime
		w.of.used -= w.n
		b.used -= w.n
	} else {
		b.waiters.Remove(e)
	}
	b.grant()
}

// give returns n bytes. It locks mu.
func (b *budget) give(of *tenant, n int64) {
	b.mu.Lock()
	of.used -= n
	b.used -= n
	if b.waiters.Len() > 0 {
		b.grant()
	}
	b.mu.Unlock()
}

// usage tells the bytes in use and the most there ever were. It locks mu.
func (b *budget) usage() (used, peak int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, b.peak
}
