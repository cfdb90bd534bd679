package layered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// Snapshot implements store.Store.
func (st *Store) Snapshot(ctx context.Context, id store.ID, name string) (store.Info, error) {
	if err := st.alive(); err != nil {
		return store.Info{}, err
	}
	if err := store.ValidateName(store.KindSnapshot, name); err != nil {
		return store.Info{}, err
	}
	unlock, err := st.hold(ctx, id)
	if err != nil {
		return store.Info{}, err
	}
	defer unlock()
	if err := st.canSnapshot(id, name); err != nil {
		return store.Info{}, err
	}
	im, err := st.use(id)
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot: %w", err)
	}
	defer im.done()
	var info store.Info
	err = im.freeze(func(seal *sealing) error {
		var am aftermath
		err := st.cat.Update(func(tx *meta.Tx) error {
			am = aftermath{}
			below, err := seal.apply(tx, &am)
			if err != nil {
				return err
			}
			img, err := tx.Image(id)
			if err != nil {
				return err
			}
			s := meta.Snapshot{Overlap: img.Overlap, ID: store.NewID(), Image: id, Name: name, Layer: below.ID, Format: img.Format, Created: time.Now().UTC()}
			if err := tx.PutSnapshot(s); err != nil {
				return err
			}
			info, err = st.snapshotInfo(tx, s)
			return err
		})
		if err == nil {
			failpoint.Hit("layered.snapshot")
			st.settle(am)
		}
		return err
	})
	if err != nil {
		return store.Info{}, fmt.Errorf("snapshot %q of %s: %w", name, im.view.name, err)
	}
	return info, nil
}

// canSnapshot refuses before anything is made or stopped.
func (st *Store) canSnapshot(id store.ID, name string) error {
	err := st.cat.View(func(tx *meta.Tx) error {
		img, err := tx.Image(id)
		if err != nil || img.Removed {
			return errors.Join(err, notImage(tx, id))
		}
		if reason := st.damageBelow(tx, img.Head); reason != "" {
			return fmt.Errorf("snapshot of image %q: %s: %w", img.Name, reason, store.ErrCorrupt)
		}
		if img.Poison != "" {
			return fmt.Errorf("image %q: %s: %w", img.Name, img.Poison, store.ErrReadOnly)
		}
		_, err = tx.SnapshotByName(id, name)
		if err == nil {
			return fmt.Errorf("snapshot %q of image %q: %w", name, img.Name, store.ErrConflict)
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return st.admitSnapshot(fmt.Sprintf("snapshot %q", name))
}

// notImage tells a snapshot's id from an unknown one.
func notImage(tx *meta.Tx, id store.ID) error {
	if s, err := tx.Snapshot(id); err == nil {
		return fmt.Errorf("%s is the snapshot %q, not an image: %w", id, s.Name, store.ErrInvalid)
	}
	return fmt.Errorf("no image %s: %w", id, store.ErrNotFound)
}

// sealing freezes an image's state inside somebody's transaction.
type sealing struct {
	im   *image
	next *fresh // the head to come; nil where the state is frozen already
	data int64  // data blocks of the head to be sealed
	done bool
}

// freeze calls commit with the image's writes stopped and flushed. commit runs one
// transaction in which it calls apply; when it succeeds, writes go on into the new
// head. Nothing in it depends on the image's size or depth.
func (im *image) freeze(commit func(*sealing) error) error {
	if err := im.flush(); err != nil { // most of the work, while writes go on
		return err
	}
	seal := &sealing{im: im}
	if frozen, err := im.unchanged(); err != nil {
		return err
	} else if !frozen {
		if err := seal.prepare(); err != nil {
			return err
		}
	}
	im.gate.Lock()
	defer im.gate.Unlock()
	err := seal.settle()
	if err == nil {
		err = commit(seal)
	}
	if seal.next == nil {
		return err
	}
	if err != nil || !seal.done {
		seal.next.drop()
		return err
	}
	im.changeHead(seal.next)
	im.wantIndex()
	return nil
}

// changeHead lets writes go on in the new head. The sealed one is tidied up behind
// them: its map is written out, so that its journal, memory and files are free.
func (im *image) changeHead(next *fresh) {
	st, sealed := im.st, im.st.layers.acquire(im.head.id)
	im.switchHead(next.id)
	next.keep()
	st.rest(sealed.id)
	st.tidying.Go(func() {
		defer st.layers.release(sealed)
		if row, err := st.layerRow(sealed.id); err == nil {
			st.rewriteHeader(sealed, row, "")
		}
		if lay, err := sealed.get(); err == nil {
			_ = lay.Checkpoint() // what fails here is replayed at the next use
		}
	})
}

// prepare makes the head to come.
func (s *sealing) prepare() error {
	next, err := s.im.st.makeActive(meta.Layer{Image: s.im.id, Parent: s.im.head.id, Size: s.im.view.size.Load(), Overlap: s.im.view.size.Load()})
	s.next = next
	return err
}

// settle makes the final decision: with the gate held the head cannot change.
func (s *sealing) settle() error {
	frozen, err := s.im.unchanged()
	if err != nil {
		return err
	}
	if frozen {
		if s.next != nil {
			s.next.drop()
			s.next = nil
		}
		return nil
	}
	if s.next == nil {
		if err := s.prepare(); err != nil {
			return err
		}
	}
	if err := s.im.finishTrims(); err != nil {
		return err
	}
	head, err := s.im.headLayer()
	if err != nil {
		return err
	}
	if err := head.Flush(); err != nil {
		return s.im.failed("seal", 0, err)
	}
	s.data, _ = head.Blocks()
	return nil
}

// apply returns the layer that shows the frozen state, sealing the head in tx if it
// has changed.
func (s *sealing) apply(tx *meta.Tx, am *aftermath) (meta.Layer, error) {
	img, err := tx.Image(s.im.id)
	if err != nil {
		return meta.Layer{}, err
	}
	head, err := tx.Layer(img.Head)
	if err != nil {
		return meta.Layer{}, err
	}
	if s.next == nil {
		return tx.Layer(head.Parent)
	}
	if head.ID != s.im.head.id {
		return meta.Layer{}, fmt.Errorf("image %s has head %d in the catalogue and %d in use: %w", img.ID, head.ID, s.im.head.id, store.ErrCorrupt)
	}
	head.Sealed, head.Data = true, s.data
	next := meta.Layer{ID: s.next.id, Image: img.ID, Parent: head.ID, Overlap: head.Size, Size: head.Size}
	img.Head = next.ID
	if err := errors.Join(tx.PutLayer(head), tx.PutLayer(next), tx.PutImage(img)); err != nil {
		return meta.Layer{}, err
	}
	s.done = true
	if err := s.im.st.intendTrim(tx, head, am); err != nil {
		return meta.Layer{}, err
	}
	// What lies under the sealed head may be merged now.
	return head, s.im.st.collect(tx, head.Parent, am)
}

// unchanged tells whether the layer under the head shows what the head shows: no
// block of any state, equal size and overlap, and an own layer no merge dissolves.
func (im *image) unchanged() (bool, error) {
	lay, err := im.head.get()
	if err != nil {
		return false, err
	}
	if !lay.Empty() {
		return false, nil
	}
	same := false
	err = im.st.cat.View(func(tx *meta.Tx) error {
		head, err := tx.Layer(im.head.id)
		if err != nil || head.Parent == 0 {
			return err
		}
		below, err := tx.Layer(head.Parent)
		same = err == nil && below.Image == head.Image && below.Merging == 0 &&
			head.Size == below.Size && head.Overlap == below.Size
		return err
	})
	return same, err
}
