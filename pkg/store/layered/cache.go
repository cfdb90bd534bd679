package layered

import (
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store/layered/layer"
)

// A slot says where a block of a view lives: 0 is nowhere (a hole), else the index
// of a layer in the view's table, with slotZero set where that layer says zero.
type slot = uint16

const (
	slotZero  slot = 1 << 15
	slotLayer slot = slotZero - 1
)

// entry is the resolved map of one chunk: one slot for all its blocks, or one each.
type entry struct {
	uniform slot
	mixed   *[layer.ChunkBlocks]slot
	used    bool // since the clock hand last passed
}

const (
	uniformCost = 96
	mixedCost   = uniformCost + 2*layer.ChunkBlocks
)

func (e *entry) cost() int64 {
	if e.mixed != nil {
		return mixedCost
	}
	return uniformCost
}

func (e *entry) at(i int) slot {
	if e.mixed != nil {
		return e.mixed[i]
	}
	return e.uniform
}

// shard guards a share of a view's chunks: their entries here, and that no chunk is
// resolved while its map changes.
type shard struct {
	mu      sync.Mutex
	entries map[int64]*entry
}

// cache bounds the memory of all resolved maps of a store, whatever the nominal
// size of its images. Entries can always be rebuilt from the layers' maps.
type cache struct {
	budget int64
	bytes  atomic.Int64

	mu     sync.Mutex
	shards []*shard
	hand   int
}

func (c *cache) attach(s []shard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range s {
		c.shards = append(c.shards, &s[i])
	}
}

func (c *cache) detach(s []shard) {
	gone := make(map[*shard]bool, len(s))
	for i := range s {
		gone[&s[i]] = true
	}
	c.mu.Lock()
	kept := c.shards[:0]
	for _, sh := range c.shards {
		if !gone[sh] {
			kept = append(kept, sh)
		}
	}
	clear(c.shards[len(kept):])
	c.shards = kept
	c.mu.Unlock()
	for i := range s {
		s[i].mu.Lock()
		c.dropAll(&s[i])
		s[i].mu.Unlock()
	}
}

// dropAll forgets a shard's entries. The caller holds s.mu.
func (c *cache) dropAll(s *shard) {
	var n int64
	for _, e := range s.entries {
		n += e.cost()
	}
	s.entries = nil
	c.bytes.Add(-n)
}

// drop forgets one chunk. The caller holds s.mu.
func (c *cache) drop(s *shard, chunk int64) {
	if e := s.entries[chunk]; e != nil {
		delete(s.entries, chunk)
		c.bytes.Add(-e.cost())
	}
}

// insert remembers a chunk and makes room for it. The caller holds s.mu.
func (c *cache) insert(s *shard, chunk int64, e *entry) {
	if s.entries == nil {
		s.entries = map[int64]*entry{}
	}
	c.drop(s, chunk)
	s.entries[chunk] = e
	e.used = true
	if c.bytes.Add(e.cost()) > c.budget {
		c.evict(s, chunk)
	}
}

// grow turns a uniform entry into a mixed one. The caller holds its shard's mutex.
func (c *cache) grow(e *entry) {
	if e.mixed != nil {
		return
	}
	e.mixed = new([layer.ChunkBlocks]slot)
	for i := range e.mixed {
		e.mixed[i] = e.uniform
	}
	c.bytes.Add(mixedCost - uniformCost)
}

// evict lets the clock hand pass over the shards until the budget holds. A shard
// in use by another goroutine is passed over, so there is no lock order between
// shards; own is held by the caller already and its entry keep stays.
func (c *cache) evict(own *shard, keep int64) {
	if !c.mu.TryLock() {
		return // another goroutine makes room
	}
	defer c.mu.Unlock()
	for passes := 2 * len(c.shards); passes > 0 && c.bytes.Load() > c.budget; passes-- {
		c.hand = (c.hand + 1) % len(c.shards)
		s := c.shards[c.hand]
		if s != own && !s.mu.TryLock() {
			continue
		}
		for chunk, e := range s.entries {
			switch {
			case s == own && chunk == keep:
			case e.used:
				e.used = false
			default:
				c.drop(s, chunk)
			}
		}
		if s != own {
			s.mu.Unlock()
		}
	}
}
