//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"sync"
)

// keyLocks is a mutex per key. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	turn chan struct{} // holds a token while the lock is free
	refs int
}

// lock waits for the key until the context ends.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		if k.held == nil {
			k.held = map[string]*keyLock{}
		}
		l = &keyLock{turn: make(chan struct{}, 1)}
		l.turn <- struct{}{}
		k.held[key] = l
	}
	l.refs++
	k.mu.Unlock()
	drop := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(k.held, key)
		}
	}
	select {
	case <-l.turn:
		return func() { l.turn <- struct{}{}; drop() }, nil
	case <-ctx.Done():
		drop()
		return nil, fmt.Errorf("wait for %s: %w", key, ctx.Err())
	}
}
