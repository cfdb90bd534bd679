package layered

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// keyLocks is a mutex per key. The zero value is ready.
type keyLocks struct {
	mu    sync.Mutex
	held  map[string]*keyLock
	users int           // holders and those who wait
	idle  chan struct{} // not nil once closed: closed itself with the last user
}

type keyLock struct {
	turn chan struct{} // holds a token while the lock is free
	refs int
}

// lock waits for the key until the context ends; ErrClosed after drain.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.idle != nil {
		k.mu.Unlock()
		return nil, fmt.Errorf("lock %s: %w", key, store.ErrClosed)
	}
	k.users++
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
		if l.refs--; l.refs == 0 {
			delete(k.held, key)
		}
		if k.users--; k.users == 0 && k.idle != nil {
			close(k.idle)
		}
		k.mu.Unlock()
	}
	select {
	case <-l.turn:
		return func() { l.turn <- struct{}{}; drop() }, nil
	case <-ctx.Done():
		drop()
		return nil, fmt.Errorf("wait for %s: %w", key, ctx.Err())
	}
}

// drain lets nobody in any more, with ErrClosed, and waits for those who are in.
func (k *keyLocks) drain() {
	k.mu.Lock()
	k.idle = make(chan struct{})
	if k.users == 0 {
		close(k.idle)
	}
	k.mu.Unlock()
	<-k.idle
}
