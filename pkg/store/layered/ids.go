package layered

import (
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// idBatch is how many layer ids are reserved at once, so that making a layer costs
// no catalogue transaction of its own.
const idBatch = 256

// layerIDs hands out layer ids. A layer's files are made before the transaction
// that binds them; the reserved window tells start-up where orphans may be.
type layerIDs struct {
	st *Store

	mu       sync.Mutex
	next     meta.LayerID
	end      meta.LayerID
	inFlight map[meta.LayerID]bool // handed out, neither bound nor removed yet
}

func (a *layerIDs) take() (meta.LayerID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == a.end {
		if err := a.reserve(); err != nil {
			return 0, err
		}
	}
	id := a.next
	a.next++
	if a.inFlight == nil {
		a.inFlight = map[meta.LayerID]bool{}
	}
	a.inFlight[id] = true
	return id, nil
}

func (a *layerIDs) reserve() error {
	var first meta.LayerID
	err := a.st.cat.Update(func(tx *meta.Tx) (err error) {
		if first, err = tx.ReserveLayers(idBatch); err != nil {
			return err
		}
		oldest := first
		for id := range a.inFlight {
			oldest = min(oldest, id)
		}
		return tx.SetReservedFrom(oldest)
	})
	if err == nil {
		a.next, a.end = first, first+idBatch
	}
	return err
}

// settled says that the layer is bound, or its files are gone.
func (a *layerIDs) settled(id meta.LayerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.inFlight, id)
}

// giveBack ends the window at a clean close, when nothing is in flight.
func (a *layerIDs) giveBack() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.end == 0 || len(a.inFlight) > 0 {
		return nil
	}
	return a.st.cat.Update(func(tx *meta.Tx) error { return tx.SetReservedFrom(a.end) })
}

// fresh is a layer whose files exist and that the catalogue does not know yet.
type fresh struct {
	st  *Store
	id  meta.LayerID
	lay *layer.Layer
	ref *layerRef
}

// makeLayer makes the files of a layer. The caller binds it with keep after its
// transaction, or removes it with drop.
func (st *Store) makeLayer(row meta.Layer) (*fresh, error) { return st.make(row, layer.Create) }

// makeActive is makeLayer for a head that is written to at once: its first write
// needs no sync.
func (st *Store) makeActive(row meta.Layer) (*fresh, error) { return st.make(row, layer.CreateActive) }

func (st *Store) make(row meta.Layer, create func(*layer.Env, layer.Identity) (*layer.Layer, error)) (*fresh, error) {
	id, err := st.ids.take()
	if err != nil {
		return nil, err
	}
	row.ID = id
	lay, err := create(st.env, identity(row, ""))
	if err != nil {
		_ = layer.Remove(st.env, uint64(id))
		st.ids.settled(id)
		return nil, fmt.Errorf("make layer %d: %w", id, err)
	}
	return &fresh{st: st, id: id, lay: lay, ref: st.layers.adopt(id, lay)}, nil
}

// keep ends the making of a bound layer; it is closed unless somebody uses it.
func (f *fresh) keep() {
	f.st.ids.settled(f.id)
	f.st.layers.release(f.ref)
}

// drop removes the files of a layer that was not bound. After a crash before it
// the start-up sweep does the same.
func (f *fresh) drop() {
	f.st.layers.release(f.ref)
	if err := layer.Remove(f.st.env, uint64(f.id)); err != nil {
		f.st.opts.OnEvent(Event{fmt.Sprintf("layer %d", f.id), "its unused files could not be removed", err})
	}
	f.st.ids.settled(f.id)
}

func identity(row meta.Layer, poison string) layer.Identity {
	return layer.Identity{ID: uint64(row.ID), Image: string(row.Image), Parent: uint64(row.Parent),
		Overlap: row.Overlap, Size: row.Size, Sealed: row.Sealed, Poison: poison}
}
