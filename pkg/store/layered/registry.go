package layered

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// layerRef is one layer in use. Its files are opened at the first need, so that an
// image with thousands of snapshots costs little until it is read.
type layerRef struct {
	id  meta.LayerID
	reg *registry

	refs int // guarded by reg.mu

	open atomic.Pointer[layer.Layer]
	mu   sync.Mutex // serialises opening and closing
	err  error      // sticky: a layer found damaged stays refused while in use
}

// get returns the open layer. A damaged layer answers ErrCorrupt every time.
func (r *layerRef) get() (*layer.Layer, error) {
	if l := r.open.Load(); l != nil {
		return l, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.open.Load(); l != nil {
		return l, nil
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.reg.dead.Load() {
		return nil, fmt.Errorf("open layer %d: %w", r.id, store.ErrClosed)
	}
	l, rec, err := layer.Open(r.reg.env, uint64(r.id))
	if err != nil {
		r.err = fmt.Errorf("open layer %d: %w", r.id, asDamage(err))
		if isDamage(r.err) {
			r.reg.onDamage(r.id, r.err)
		}
		return nil, r.err
	}
	r.open.Store(l)
	if rec.Lost {
		r.reg.onLost(r.id)
	}
	if rec.Poison != "" {
		r.reg.onPoison(r.id, rec.Poison)
	}
	return l, nil
}

// registry hands out layers and closes them after their last use. A layer is
// opened at most once at a time: two openers would each own a journal.
type registry struct {
	env      *layer.Env
	onDamage func(meta.LayerID, error)
	onLost   func(meta.LayerID)
	onPoison func(meta.LayerID, string)
	onClose  func(meta.LayerID, error)

	dead atomic.Bool // abandoned: nothing is opened any more

	mu   sync.Mutex
	refs map[meta.LayerID]*layerRef
	busy map[meta.LayerID]bool
	// claims counts how often a layer was claimed.
	claims map[meta.LayerID]uint64
	freed  chan struct{} // closed and replaced when layers are let go of
}

func newRegistry(env *layer.Env) *registry {
	return &registry{env: env, refs: map[meta.LayerID]*layerRef{}, busy: map[meta.LayerID]bool{}, claims: map[meta.LayerID]uint64{}, freed: make(chan struct{}),
		onDamage: func(meta.LayerID, error) {}, onLost: func(meta.LayerID) {},
		onPoison: func(meta.LayerID, string) {}, onClose: func(meta.LayerID, error) {}}
}

// acquire takes a reference; release gives it back.
func (g *registry) acquire(id meta.LayerID) *layerRef {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.refs[id]
	if r == nil {
		r = &layerRef{id: id, reg: g}
		g.refs[id] = r
	}
	r.refs++
	return r
}

// release closes the layer with its last reference. The caller has made sure that
// no reader still holds a run in it (srcu).
func (g *registry) release(r *layerRef) {
	g.mu.Lock()
	r.refs--
	last := r.refs == 0
	g.mu.Unlock()
	if !last {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g.mu.Lock()
	if r.refs > 0 { // taken again meanwhile; it stays open
		g.mu.Unlock()
		return
	}
	l := r.open.Swap(nil) // while nobody can take it again
	g.mu.Unlock()
	if l != nil {
		if err := l.Close(); err != nil {
			g.onClose(r.id, err)
		}
	}
	g.mu.Lock()
	if r.refs == 0 && g.refs[r.id] == r {
		delete(g.refs, r.id)
	}
	g.mu.Unlock()
}

// claimPatience is how long a job waits for another one that changes the same layers
// before it lets go of its place in the queue.
const claimPatience = 500 * time.Millisecond

// claim gives one background job the right to change the given sealed layers;
// ErrBusy if another one keeps it for long.
func (g *registry) claim(ctx context.Context, ids ...meta.LayerID) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	for {
		taken, freed := g.tryClaim(ids)
		if taken == 0 {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("layer %d is being changed by another job: %w", taken, store.ErrBusy)
		}
	}
}

// tryClaim returns a layer that is taken, 0 when the claim succeeded.
func (g *registry) tryClaim(ids []meta.LayerID) (taken meta.LayerID, freed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		if g.busy[id] {
			return id, g.freed
		}
	}
	for _, id := range ids {
		g.busy[id] = true
		g.claims[id]++
	}
	return 0, nil
}

func (g *registry) unclaim(ids ...meta.LayerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		delete(g.busy, id)
	}
	close(g.freed)
	g.freed = make(chan struct{})
}

// unclaimed waits until nobody has claimed a layer, and returns how often it was claimed
// by then: if that is the same later, no job has changed the layer meanwhile.
func (g *registry) unclaimed(ctx context.Context, id meta.LayerID, patience time.Duration) (uint64, error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		g.mu.Lock()
		busy, n, freed := g.busy[id], g.claims[id], g.freed
		g.mu.Unlock()
		if !busy {
			return n, ctx.Err()
		}
		select {
		case <-freed:
		case <-wait.Done():
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return 0, errChanging
		}
	}
}

func (g *registry) claimsOf(id meta.LayerID) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claims[id]
}

// gone forgets how often a layer was claimed that is no more.
func (g *registry) gone(id meta.LayerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.claims, id)
}

// adopt registers a layer that was just created and is open already.
func (g *registry) adopt(id meta.LayerID, l *layer.Layer) *layerRef {
	r := g.acquire(id)
	r.open.Store(l)
	return r
}

// abandon drops every handle without a sync or a write, as a crash would.
func (g *registry) abandon() {
	g.dead.Store(true)
	g.mu.Lock()
	refs := g.refs
	g.refs = map[meta.LayerID]*layerRef{}
	g.mu.Unlock()
	for _, r := range refs {
		r.mu.Lock()
		if l := r.open.Swap(nil); l != nil {
			l.Abandon()
		}
		r.err = fmt.Errorf("layer %d: %w", r.id, store.ErrClosed)
		r.mu.Unlock()
	}
}
