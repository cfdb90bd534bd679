package pool

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// conns keeps one connection for each address, shared by all pools. A connection
// lives until the set is closed or no pool has named its address for a while.
type conns struct {
	dial func(string) (Remote, error)
	now  func() time.Time

	mu     sync.Mutex
	open   map[string]*conn
	closed bool
}

type conn struct {
	remote Remote
	used   time.Time // when it was last asked for
}

// idle is after how long without use a connection is closed.
const idle = time.Hour

func newConns(dial func(string) (Remote, error), now func() time.Time) *conns {
	return &conns{dial: dial, now: now, open: make(map[string]*conn)}
}

// get returns the connection to addr.
func (c *conns) get(addr string) (Remote, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("pools: %w", store.ErrClosed)
	}
	if o := c.open[addr]; o != nil {
		o.used = c.now()
		return o.remote, nil
	}
	remote, err := c.dial(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	c.open[addr] = &conn{remote: remote, used: c.now()}
	return remote, nil
}

// sweep closes connections that nobody has asked for in a while.
func (c *conns) sweep() {
	c.mu.Lock()
	var unused []Remote
	for addr, o := range c.open {
		if c.now().Sub(o.used) > idle {
			unused = append(unused, o.remote)
			delete(c.open, addr)
		}
	}
	c.mu.Unlock()
	for _, r := range unused {
		_ = r.Close() // nobody uses it
	}
}

func (c *conns) close() error {
	c.mu.Lock()
	open := c.open
	c.open, c.closed = nil, true
	c.mu.Unlock()
	var errs []error
	for _, o := range open {
		errs = append(errs, o.remote.Close())
	}
	return errors.Join(errs...)
}
