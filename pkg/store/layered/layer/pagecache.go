package layer

import (
	"container/list"
	"sync"
)

// pageCost is what one cached page is charged, in bytes, with its bookkeeping.
const pageCost = pageBits + 256

// PageCache keeps map pages that equal what is on disk, for all layers of a
// store together, within a budget. The least recently used go first. The zero
// budget keeps nothing; a nil *PageCache is valid and keeps nothing, too.
// All methods may be called concurrently.
type PageCache struct {
	mu     sync.Mutex
	budget int64
	used   int64
	lru    *list.List // of cached, most recent first
	at     map[pageKey]*list.Element
}

type pageKey struct {
	l  *Layer
	no int64
}

type cached struct {
	key pageKey
	p   *page
}

// NewPageCache makes a cache of at most budget bytes.
func NewPageCache(budget int64) *PageCache {
	return &PageCache{budget: budget, lru: list.New(), at: map[pageKey]*list.Element{}}
}

// Used is how many bytes the cached pages cost.
func (c *PageCache) Used() int64 {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func (c *PageCache) get(l *Layer, no int64) *page {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[pageKey{l, no}]
	if e == nil {
		return nil
	}
	c.lru.MoveToFront(e)
	return e.Value.(*cached).p
}

func (c *PageCache) put(l *Layer, p *page) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := pageKey{l, p.no}
	if e := c.at[key]; e != nil {
		e.Value.(*cached).p = p
		c.lru.MoveToFront(e)
		return
	}
	c.at[key] = c.lru.PushFront(&cached{key, p})
	c.used += pageCost
	for c.used > c.budget && c.lru.Len() > 0 {
		c.evict(c.lru.Back())
	}
}

func (c *PageCache) drop(l *Layer, no int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.at[pageKey{l, no}]; e != nil {
		c.evict(e)
	}
}

// forget removes every page of l.
func (c *PageCache) forget(l *Layer) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.lru.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*cached).key.l == l {
			c.evict(e)
		}
		e = next
	}
}

func (c *PageCache) evict(e *list.Element) {
	delete(c.at, e.Value.(*cached).key)
	c.lru.Remove(e)
	c.used -= pageCost
}
