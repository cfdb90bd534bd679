package layered

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

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
	l, rec, err := layer.Open(r.reg.env, uint64(r.id))
	if err != nil {
		r.err = fmt.Errorf("open layer %d: %w", r.id, err)
		if errors.Is(err, store.ErrCorrupt) {
			r.reg.onDamage(r.id, r.err)
		}
		return nil, r.err
	}
	r.open.Store(l)
	if rec.Lost {
		r.reg.onLost(r.id)
	}
	return l, nil
}

// registry hands out layers and closes them after their last use. A layer is
// opened at most once at a time: two openers would each own a journal.
type registry struct {
	env      *layer.Env
	onDamage func(meta.LayerID, error)
	onLost   func(meta.LayerID)
	onClose  func(meta.LayerID, error)

	mu   sync.Mutex
	refs map[meta.LayerID]*layerRef
	busy map[meta.LayerID]bool
}

func newRegistry(env *layer.Env) *registry {
	return &registry{env: env, refs: map[meta.LayerID]*layerRef{}, busy: map[meta.LayerID]bool{},
		onDamage: func(meta.LayerID, error) {}, onLost: func(meta.LayerID) {}, onClose: func(meta.LayerID, error) {}}
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
	g.mu.Unlock()
	if l := r.open.Swap(nil); l != nil {
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

// claim gives one background job the right to change the given sealed layers.
func (g *registry) claim(ids ...meta.LayerID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		if g.busy[id] {
			return fmt.Errorf("layer %d is being changed by another job: %w", id, store.ErrBusy)
		}
	}
	for _, id := range ids {
		g.busy[id] = true
	}
	return nil
}

func (g *registry) unclaim(ids ...meta.LayerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		delete(g.busy, id)
	}
}

// adopt registers a layer that was just created and is open already.
func (g *registry) adopt(id meta.LayerID, l *layer.Layer) *layerRef {
	r := g.acquire(id)
	r.open.Store(l)
	return r
}

// abandon drops every handle without a sync or a write, as a crash would.
func (g *registry) abandon() {
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

// opened calls fn for every layer that is open now.
func (g *registry) opened(fn func(meta.LayerID, *layer.Layer)) {
	g.mu.Lock()
	refs := make([]*layerRef, 0, len(g.refs))
	for _, r := range g.refs {
		refs = append(refs, r)
	}
	g.mu.Unlock()
	for _, r := range refs {
		if l := r.open.Load(); l != nil {
			fn(r.id, l)
		}
	}
}
