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
	at     map[*Layer]map[int64]*list.Element
}

type cached struct {
	l *Layer
	p *page
}

// NewPageCache makes a cache of at most budget bytes.
func NewPageCache(budget int64) *PageCache {
	return &PageCache{budget: budget, lru: list.New(), at: map[*Layer]map[int64]*list.Element{}}
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
	e := c.at[l][no]
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
	if e := c.at[l][p.no]; e != nil {
		e.Value.(*cached).p = p
		c.lru.MoveToFront(e)
		return
	}
	if c.at[l] == nil {
		c.at[l] = map[int64]*list.Element{}
	}
	c.at[l][p.no] = c.lru.PushFront(&cached{l, p})
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
	if e := c.at[l][no]; e != nil {
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
	for _, e := range c.at[l] {
		c.evict(e)
	}
}

func (c *PageCache) evict(e *list.Element) {
	x := c.lru.Remove(e).(*cached)
	delete(c.at[x.l], x.p.no)
	if len(c.at[x.l]) == 0 {
		delete(c.at, x.l)
	}
	c.used -= pageCost
}
