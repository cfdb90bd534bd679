package nbd

import (
	"container/list"
	"sync"
	"time"
)

// budget bounds bytes, in total and per tenant. Waiters are served in the order in
// which they came, so a large request is not starved by small ones; only those who
// wait for bytes of their own tenant are overtaken by others.
type budget struct {
	limit int64
	// most is what one tenant may hold. A single request of up to limit is always
	// admitted if its tenant holds nothing.
	most int64

	mu      sync.Mutex
	used    int64
	peak    int64
	waiters list.List // of *waiter
}

// tenant is one user of a budget, whose mutex guards it.
type tenant struct{ used int64 }

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

// free tells whether n bytes can be had without overtaking anybody.
func (b *budget) free(of *tenant, n int64) bool {
	if b.used+n > b.limit || !b.room(of, n) {
		return false
	}
	for e := b.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*waiter); w.of == of || b.room(w.of, w.n) {
			return false
		}
	}
	return true
}

func (b *budget) charge(of *tenant, n int64) {
	of.used += n
	b.used += n
	b.peak = max(b.peak, b.used)
}

// grant admits waiters: all up to the first that is kept back by nothing but the
// limit.
func (b *budget) grant() {
	for e := b.waiters.Front(); e != nil; {
		w, next := e.Value.(*waiter), e.Next()
		if b.room(w.of, w.n) {
			if b.used+w.n > b.limit {
				return
			}
			b.charge(w.of, w.n)
			b.waiters.Remove(e)
			close(w.ready)
		}
		e = next
	}
}

// try takes n bytes if they are free and nobody waits for them. It locks mu.
func (b *budget) try(of *tenant, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.free(of, n) {
		return false
	}
	b.charge(of, n)
	return true
}

// take takes n bytes, n <= limit. It waits for them unless cancel closes first, and
// calls press every tick while it waits; own tells that the bytes it waits for are
// those of its own tenant. It locks mu.
func (b *budget) take(of *tenant, n int64, cancel <-chan struct{}, tick time.Duration, press func(own bool)) bool {
	b.mu.Lock()
	if b.free(of, n) {
		b.charge(of, n)
		b.mu.Unlock()
		return true
	}
	w := &waiter{of: of, n: n, ready: make(chan struct{})}
	e := b.waiters.PushBack(w)
	b.mu.Unlock()
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
	select {
	case <-w.ready: // granted in the meantime
		w.of.used -= w.n
		b.used -= w.n
	default:
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
