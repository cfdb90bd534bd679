package nbd

import (
	"container/list"
	"sync"
)

// budget bounds bytes. Waiters are served in the order in which they came, so a
// large request is not starved by small ones.
type budget struct {
	limit int64

	mu      sync.Mutex
	used    int64
	peak    int64
	waiters list.List // of *waiter
}

type waiter struct {
	n     int64
	ready chan struct{}
}

// try takes n bytes if they are free and nobody waits.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit || b.waiters.Len() > 0 {
		return false
	}
	b.charge(n)
	return true
}

// take takes n bytes, n <= limit. It waits for them unless cancel closes first.
func (b *budget) take(n int64, cancel <-chan struct{}) bool {
	b.mu.Lock()
	if b.used+n <= b.limit && b.waiters.Len() == 0 {
		b.charge(n)
		b.mu.Unlock()
		return true
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	e := b.waiters.PushBack(w)
	b.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-cancel:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.ready: // granted in the meantime
		b.used -= n
	default:
		b.waiters.Remove(e)
	}
	b.grant()
	return false
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	b.used -= n
	if b.waiters.Len() > 0 {
		b.grant()
	}
	b.mu.Unlock()
}

// charge and grant are called with mu held.
func (b *budget) charge(n int64) {
	b.used += n
	b.peak = max(b.peak, b.used)
}

func (b *budget) grant() {
	for e := b.waiters.Front(); e != nil; e = b.waiters.Front() {
		w := e.Value.(*waiter)
		if b.used+w.n > b.limit {
			return
		}
		b.charge(w.n)
		b.waiters.Remove(e)
		close(w.ready)
	}
}

// usage tells the bytes in use and the most there ever were.
func (b *budget) usage() (used, peak int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, b.peak
}
