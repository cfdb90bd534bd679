package layered

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

const (
	viewShards = 16
	chunkBytes = int64(layer.ChunkBlocks) * layer.BlockSize
	// maxChain keeps a layer's index within a slot.
	maxChain = int(slotLayer) - 1
)

// link is one layer of a view's chain and how far from offset 0 it is visible.
type link struct {
	ref   *layerRef
	limit int64
	index slot
	// group is the merged index of this layer and the span-1 below it, if any.
	group *mergedIndex
	span  int
}

// view is what an image or snapshot shows: a chain of layers and, per chunk, which
// layer each block is read from. Reading a resolved chunk costs the same at any
// depth.
//
// The chain changes only with all shards locked. Runs handed out by resolve stay
// readable until the srcu section they were resolved in is left.
type view struct {
	st   *Store
	name string // for errors
	// walk finds the chain in the catalogue.
	walk func(tx *meta.Tx) ([]chainRow, error)

	rebuilding sync.Mutex
	shards     [viewShards]shard
	// Guarded by all shards together: read with one, written with all locked.
	chain   []link
	table   []*layerRef // slot index → layer; index 0 is unused
	members map[meta.LayerID]bool
	closed  bool         // the chain is gone
	size    atomic.Int64 // bytes the view shows
}

// chainRow is a link as the catalogue has it.
type chainRow struct {
	id    meta.LayerID
	limit int64
	index meta.LayerID
}

// walkChain lists the layers from top downwards; limit bounds what is visible.
func walkChain(tx *meta.Tx, top meta.LayerID, limit int64) ([]chainRow, error) {
	var rows []chainRow
	for id := top; id != 0; {
		l, err := tx.Layer(id)
		if err != nil {
			return nil, err
		}
		limit = min(limit, l.Size)
		rows = append(rows, chainRow{id, limit, l.Index})
		if len(rows) > maxChain {
			return nil, fmt.Errorf("layer %d: chain of more than %d layers: %w", top, maxChain, store.ErrUnsupported)
		}
		limit = min(limit, l.Overlap)
		id = l.Parent
	}
	return rows, nil
}

func newView(st *Store, name string, walk func(tx *meta.Tx) ([]chainRow, error)) (*view, error) {
	v := &view{st: st, name: name, walk: walk}
	st.cache.attach(v.shards[:])
	st.addView(v)
	if err := v.rebuild(); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func (v *view) lockAll() {
	for i := range v.shards {
		v.shards[i].mu.Lock()
	}
}

func (v *view) unlockAll() {
	for i := range v.shards {
		v.shards[i].mu.Unlock()
	}
}

// rebuild takes the chain from the catalogue anew and forgets what was resolved.
// Layers that left the chain are released after the readers that may hold them.
func (v *view) rebuild() error {
	v.rebuilding.Lock()
	defer v.rebuilding.Unlock()
	v.lockAll()
	if v.closed { // since somebody listed it: references taken now would never be given back
		v.unlockAll()
		return nil
	}
	var rows []chainRow
	err := v.st.cat.View(func(tx *meta.Tx) (err error) {
		rows, err = v.walk(tx)
		return err
	})
	if err != nil {
		v.unlockAll()
		return fmt.Errorf("layers of %s: %w", v.name, err)
	}
	old := v.chain
	v.setChain(rows)
	v.unlockAll()
	v.st.retire(old)
	return nil
}

// setChain acquires the rows' layers. The caller holds all shards.
func (v *view) setChain(rows []chainRow) {
	v.chain = make([]link, len(rows))
	v.table = make([]*layerRef, 1, len(rows)+8)
	v.members = make(map[meta.LayerID]bool, len(rows))
	for i, row := range rows {
		ref := v.st.layers.acquire(row.id)
		v.chain[i] = link{ref: ref, limit: row.limit, index: slot(len(v.table))}
		v.table = append(v.table, ref)
		v.members[row.id] = true
	}
	for i := 0; i < len(rows); i += max(1, v.chain[i].span) {
		v.chain[i].group, v.chain[i].span = v.st.groupAt(rows[i:])
	}
	if len(rows) > 0 {
		v.size.Store(rows[0].limit)
	}
	for i := range v.shards {
		v.st.cache.dropAll(&v.shards[i])
	}
}

// push puts a new, empty layer on top without forgetting what is resolved. The
// view takes its own reference.
func (v *view) push(id meta.LayerID) {
	v.lockAll()
	defer v.unlockAll()
	if v.members[id] {
		return // a rebuild for another reason has brought it already
	}
	if len(v.table) > maxChain { // indexes are used up: start again
		rows := make([]chainRow, 0, len(v.chain)+1)
		rows = append(rows, chainRow{id, v.size.Load(), 0})
		for _, l := range v.chain {
			rows = append(rows, chainRow{id: l.ref.id, limit: l.limit})
		}
		old := v.chain
		v.setChain(rows)
		for _, l := range old { // each is referenced by the new chain as well
			v.st.layers.release(l.ref)
			if l.group != nil {
				l.group.close() // builders of chunks are kept out by the shards
			}
		}
		return
	}
	ref := v.st.layers.acquire(id)
	v.chain = append([]link{{ref: ref, limit: v.size.Load(), index: slot(len(v.table))}}, v.chain...)
	v.table = append(v.table, ref)
	v.members[id] = true
}

// close releases the chain. Operations that are under way end; later ones find it
// closed.
func (v *view) close() {
	v.st.dropView(v)
	v.st.cache.detach(v.shards[:])
	v.lockAll()
	old := v.chain
	v.chain, v.members, v.closed = nil, nil, true
	v.unlockAll()
	v.st.retire(old)
}

// top is the layer that is read first; for an image it is the head.
func (v *view) top() meta.LayerID {
	v.shards[0].mu.Lock()
	defer v.shards[0].mu.Unlock()
	return v.chain[0].ref.id
}

// has tells whether a layer is in the chain.
func (v *view) has(id meta.LayerID) bool {
	v.shards[0].mu.Lock()
	defer v.shards[0].mu.Unlock()
	return v.members[id]
}

// openAll opens every layer, so that a damaged one is refused before first use.
func (v *view) openAll() error {
	t := v.st.srcu.Enter() // keeps the layers of this chain from being released
	defer v.st.srcu.Exit(t)
	v.shards[0].mu.Lock()
	chain := v.chain
	v.shards[0].mu.Unlock()
	for _, l := range chain {
		lay, err := l.ref.get()
		if err == nil {
			err = v.st.stillDamaged(l.ref.id, lay)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

func (v *view) shardOf(chunk int64) *shard { return &v.shards[uint64(chunk)%viewShards] }

// lookup returns the resolved chunk. The caller holds its shard.
func (v *view) lookup(s *shard, chunk int64) (*entry, error) {
	if e := s.entries[chunk]; e != nil {
		e.used = true
		return e, nil
	}
	if v.closed { // an empty chain would read as zeroes
		return nil, fmt.Errorf("%s: %w", v.name, store.ErrClosed)
	}
	e, err := v.build(chunk)
	if err != nil {
		return nil, fmt.Errorf("%s: chunk at %d: %w", v.name, chunk*chunkBytes, err)
	}
	v.st.cache.insert(s, chunk, e)
	return e, nil
}

// build resolves a chunk from the layers' maps, top down until nothing is open.
// The caller holds the chunk's shard, so no map changes under it, and is in an srcu
// section, so that a merge frees no chunk that was passed as absent.
func (v *view) build(chunk int64) (*entry, error) {
	var slots [layer.ChunkBlocks]slot
	var states layer.Chunk
	open := layer.ChunkBlocks
	first := chunk * layer.ChunkBlocks
	for i := 0; i < len(v.chain); i++ {
		l := v.chain[i]
		visible := min(l.limit/layer.BlockSize-first, layer.ChunkBlocks)
		if visible <= 0 || open == 0 {
			break
		}
		if l.group != nil {
			if n, err := l.group.load(chunk, &slots, int(visible), v.chain[i:i+l.span]); err == nil {
				open -= n
				i += l.span - 1
				continue
			} // an index that cannot be read is passed over
		}
		lay, err := l.ref.get()
		if err != nil {
			return nil, err
		}
		some, err := lay.LoadChunk(chunk, &states)
		if err != nil {
			return nil, v.st.noticeDamage(l.ref.id, err)
		}
		if some {
			open -= fold(&slots, &states, int(visible), l.index)
		}
	}
	return compact(&slots), nil
}

// fold enters one layer's states where nothing above it decided, and returns how
// many blocks it decided.
func fold(slots *[layer.ChunkBlocks]slot, states *layer.Chunk, visible int, index slot) int {
	decided := 0
	for i := 0; i < visible; {
		packed := states[i/4]
		if packed == 0 {
			i += 4 - i%4
			continue
		}
		if slots[i] == 0 {
			switch layer.State(packed >> (uint(i%4) * 2) & 3) {
			case layer.Data:
				slots[i] = index
				decided++
			case layer.Zero:
				slots[i] = index | slotZero
				decided++
			}
		}
		i++
	}
	return decided
}

func compact(slots *[layer.ChunkBlocks]slot) *entry {
	for i := 1; i < len(slots); i++ {
		if slots[i] != slots[0] {
			m := *slots
			return &entry{mixed: &m}
		}
	}
	return &entry{uniform: slots[0]}
}

// update enters that blocks of one chunk now live in the chain's top layer.
func (v *view) update(chunk int64, from, n int, zero bool) {
	s := v.shardOf(chunk)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[chunk]
	if e == nil {
		return
	}
	to := v.chain[0].index
	if zero {
		to |= slotZero
	}
	if n == layer.ChunkBlocks {
		v.st.cache.insert(s, chunk, &entry{uniform: to})
		return
	}
	v.st.cache.grow(e)
	for i := from; i < from+n; i++ {
		e.mixed[i] = to
	}
}

// nextChunk returns the lowest chunk at or after c that any layer of the chain says
// something of, and one beyond the view's size if there is none. It spares a walk
// over the nominal size of a large, sparse image.
func (v *view) nextChunk(c int64) (int64, error) {
	t := v.st.srcu.Enter()
	defer v.st.srcu.Exit(t)
	v.shards[0].mu.Lock()
	chain, closed := v.chain, v.closed
	v.shards[0].mu.Unlock()
	if closed {
		return 0, fmt.Errorf("%s: %w", v.name, store.ErrClosed)
	}
	best := v.size.Load()/chunkBytes + 1
	for _, l := range chain {
		lay, err := l.ref.get()
		if err != nil {
			return 0, err
		}
		next, some, err := lay.NextChunk(c)
		if err != nil {
			return 0, v.st.noticeDamage(l.ref.id, err)
		}
		if some && next < best {
			if best = next; best == c {
				break
			}
		}
	}
	return max(best, c), nil
}

// forget drops what is resolved of some chunks.
func (v *view) forget(chunk, n int64) {
	for c := chunk; c < chunk+n; c++ {
		s := v.shardOf(c)
		s.mu.Lock()
		v.st.cache.drop(s, c)
		s.mu.Unlock()
	}
}
