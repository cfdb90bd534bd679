package layered

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

const (
	// ackMark is the key of the mark that says how writes were answered, ackStable its
	// value: no published image has answered writes that are not on the disk. Without
	// the mark nothing is known.
	ackMark   = "ack"
	ackStable = "stable"
)

// stable answers a change that ended with err. In a store with StableAck that is when
// the change is durable. The change holds no lock any more, so those that come
// meanwhile share the next sync.
func (im *image) stable(err error) error {
	if err != nil || !im.st.opts.StableAck {
		return err
	}
	return im.flush()
}

// settleHead makes what an image was written before it is published durable, in a
// store with StableAck: a life that answered otherwise may have left it behind, and
// the start looks at published images only.
func (st *Store) settleHead(id store.ID) error {
	if err := st.fenceLate(id); err != nil {
		return err
	}
	if !st.opts.StableAck {
		return nil
	}
	var head meta.LayerID
	err := st.cat.View(func(tx *meta.Tx) (err error) {
		img, err := tx.Image(id)
		head = img.Head
		return err
	})
	if err != nil {
		return nil //nolint:nilerr // no image: whoever publishes it says so
	}
	ref := st.layers.acquire(head)
	defer st.layers.release(ref)
	lay, err := ref.get()
	if err != nil || lay.Poisoned() != "" {
		return nil //nolint:nilerr // it takes no writes until it is repaired or reverted
	}
	if err := lay.Flush(); err != nil {
		return fmt.Errorf("make image %s durable: %w", id, err)
	}
	return nil
}

// fenceLost retires the publications of images that may have lost acknowledged,
// unflushed writes with the page cache: their clients would never send them again.
// Then it notes how this life answers, before a device can be opened.
func (st *Store) fenceLost() error {
	var was bool
	var pubs []meta.Publication
	heads := map[store.ID]meta.LayerID{}
	err := st.cat.View(func(tx *meta.Tx) error {
		mark, err := tx.Mark(ackMark)
		was = bytes.Equal(mark, []byte(ackStable))
		all, perr := tx.Publications("")
		for _, p := range all {
			if img, err := tx.Image(p.Target); err == nil && p.Access != store.AccessRead {
				heads[p.Target] = img.Head
				pubs = append(pubs, p)
			}
		}
		return errors.Join(err, perr)
	})
	if err != nil {
		return err
	}
	is := st.opts.StableAck
	for _, p := range pubs {
		owed := owedFence{p, heads[p.Target], was}
		now, err := st.fence(owed)
		if now == fenceOwed {
			st.owed[p.Target] = append(st.owed[p.Target], owed)
		} else if err != nil {
			return err
		}
		if is && !was && now != fenceDurable && now != fenceRetired {
			st.opts.OnEvent(Event{"image " + string(p.ID),
				"what it was written earlier could not be made durable; until that succeeds at a start, a power failure retires publications as if writes were not answered stably", nil})
			is = false
		}
	}
	return st.markAck(was, is)
}

// markAck changes the mark, if it has to.
func (st *Store) markAck(was, is bool) error {
	if was == is {
		return nil
	}
	var mark []byte
	if is {
		mark = []byte(ackStable)
	}
	err := st.cat.Update(func(tx *meta.Tx) error { return tx.PutMark(ackMark, mark) })
	if err != nil {
		return fmt.Errorf("note how writes are answered: %w", err)
	}
	return nil
}
