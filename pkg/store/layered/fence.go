package layered

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// owedFence is a publication that is to be retired if its image has lost answered
// writes. stable says that all were durable in the life before.
type owedFence struct {
	pub    meta.Publication
	head   meta.LayerID
	stable bool
}

// fenced is what became of a publication.
type fenced int

const (
	// fenceDurable: it stays, and all that the image was written is durable, where this
	// life answers stably.
	fenceDurable fenced = iota
	// fenceDoubtful: it stays, but what was written could not be made durable.
	fenceDoubtful
	// fenceRetired: it is gone.
	fenceRetired
	// fenceOwed: the head could not be opened, so nothing is known.
	fenceOwed
)

// fence retires a publication if its image may have lost answered writes. Where this
// life answers otherwise than the last, what the last one left is settled. With
// fenceOwed the error is why; it is no failure of the store.
func (st *Store) fence(o owedFence) (fenced, error) {
	name := "image " + string(o.pub.ID)
	ref := st.layers.acquire(o.head)
	defer st.layers.release(ref)
	lay, err := ref.get()
	if err != nil {
		st.opts.OnEvent(Event{name, "whether it has lost writes cannot be found out now; it is refused until that is known", err})
		return fenceOwed, err
	}
	lost := st.isLost(o.head)
	switch {
	case lost && (!o.stable || lay.Poisoned() != ""):
		return fenceRetired, st.retirePublication(o.pub)
	case o.stable == st.opts.StableAck:
		return fenceDurable, nil
	case o.stable && lost:
		// Nothing went with the page cache. A later start would not know that.
		err = lay.Settle()
	default:
		err = lay.Flush()
	}
	if err != nil {
		st.opts.OnEvent(Event{name, "it could not be made durable at the start", err})
		return fenceDoubtful, nil
	}
	return fenceDurable, nil
}

// fenceLate does what the start could not do to an image's publications, before the
// image is used for anything: its first write would take away what tells that it lost
// others. store.ErrUnavailable while the head cannot be opened, and when a publication
// was retired, under which the caller may be about to use the image; it is the last time
// then. Callers hold the image's key lock.
func (st *Store) fenceLate(id store.ID) error {
	st.mu.Lock()
	owed := st.owed[id]
	st.mu.Unlock()
	if len(owed) == 0 {
		return nil
	}
	retired := false
	for _, o := range owed {
		there, err := st.stillPublished(o.pub)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		now, err := st.fence(o)
		switch {
		case now == fenceOwed && isDamage(err):
			return fmt.Errorf("image %s: %w", id, err)
		case now == fenceOwed:
			return fmt.Errorf("image %s: whether it has lost writes with the machine is not known, as it cannot be opened: %w (%v)", id, store.ErrUnavailable, err)
		case err != nil:
			return err
		}
		retired = retired || now == fenceRetired
	}
	st.mu.Lock()
	delete(st.owed, id)
	st.mu.Unlock()
	if retired {
		return fmt.Errorf("image %s has lost unflushed writes with the machine; its publication is retired and it must be mounted again: %w", id, store.ErrUnavailable)
	}
	return nil
}

func (st *Store) stillPublished(p meta.Publication) (there bool, err error) {
	err = st.cat.View(func(tx *meta.Tx) error {
		all, err := tx.Publications(p.ID)
		for _, now := range all {
			there = there || now.Node == p.Node && now.Epoch == p.Epoch
		}
		return err
	})
	return there, err
}

func (st *Store) retirePublication(p meta.Publication) error {
	var am aftermath
	err := st.cat.Update(func(tx *meta.Tx) error {
		am = aftermath{}
		return st.removePublication(tx, p, &am)
	})
	if err != nil {
		return err
	}
	if st.jobs != nil { // else the start finds them in the catalogue
		st.settle(am)
	}
	st.opts.OnEvent(Event{"image " + string(p.ID), fmt.Sprintf(
		"unflushed writes may have been lost with the machine; epoch %d of node %q is retired and the volume must be mounted again", p.Epoch, p.Node), nil})
	return nil
}
