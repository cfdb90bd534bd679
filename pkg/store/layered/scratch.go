package layered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// A publication with store.AccessScratch has a private head: an image without a name
// over the layer that shows what was published. It is made and removed in the
// publication's own transaction, so no crash leaves one without the other.

// hold takes the structural lock of an image or snapshot that a caller may name. A
// private head belongs to its publication and is refused.
func (st *Store) hold(ctx context.Context, id store.ID) (unlock func(), err error) {
	if err := st.notHead(id); err != nil {
		return nil, err
	}
	return st.lock(ctx, id)
}

// notHead refuses a private head with ErrInUse. Whether an id is one never changes.
func (st *Store) notHead(id store.ID) error {
	return st.cat.View(func(tx *meta.Tx) error {
		img, err := tx.Image(id)
		if err != nil || !img.Scratch {
			return nil //nolint:nilerr // what it is instead, or why it cannot be read, others say
		}
		return fmt.Errorf("image %s belongs to a publication of %s: %w", id, img.Name, store.ErrInUse)
	})
}

// publishScratch makes a publication and its private head. The caller holds the lock
// of what is published.
func (st *Store) publishScratch(want store.Publication) (pub store.Publication, err error) {
	var info store.Info
	err = st.cat.View(func(tx *meta.Tx) (err error) {
		pub, info, err = st.published(tx, want)
		return err
	})
	if err != nil || pub.Epoch != 0 {
		return pub, err
	}
	if err := errors.Join(refuseFaulty(info), st.admit("publish "+info.Ref())); err != nil {
		return pub, err
	}
	if info.Kind == store.KindSnapshot {
		return st.addHead(want, info, func(tx *meta.Tx, _ *aftermath) (meta.Layer, error) {
			s, err := tx.Snapshot(want.ID)
			if err != nil {
				return meta.Layer{}, err
			}
			return tx.Layer(s.Layer)
		})
	}
	im, err := st.use(want.ID)
	if err != nil {
		return pub, err
	}
	defer im.done()
	err = im.freeze(func(seal *sealing) error {
		pub, err = st.addHead(want, info, seal.apply)
		return err
	})
	return pub, err
}

// addHead makes the private head over the layer that below returns, and its
// publication, in one transaction.
func (st *Store) addHead(want store.Publication, of store.Info, below func(*meta.Tx, *aftermath) (meta.Layer, error)) (store.Publication, error) {
	none := store.Publication{}
	img := meta.Image{ID: store.NewID(), Name: of.Ref(), Created: time.Now().UTC(), BlockSize: of.BlockSize,
		Policy: of.Policy, Format: of.Format, Origin: of.ID, Scratch: true}
	f, err := st.makeLayer(meta.Layer{Image: img.ID, Size: of.Size})
	if err != nil {
		return none, err
	}
	img.Head, img.Root = f.id, f.id
	want.Target = img.ID
	var pub store.Publication
	var am aftermath
	err = st.cat.Update(func(tx *meta.Tx) error {
		am = aftermath{}
		shown, err := below(tx, &am)
		if err != nil {
			return err
		}
		img.Overlap = shown.Size
		row := meta.Layer{ID: f.id, Image: img.ID, Parent: shown.ID, Overlap: shown.Size, Size: shown.Size}
		if err := errors.Join(tx.PutLayer(row), tx.PutImage(img)); err != nil {
			return err
		}
		pub, err = newPublication(tx, of, want)
		return err
	})
	if err != nil {
		f.drop()
		return none, err
	}
	f.keep()
	st.settle(am)
	return pub, nil
}

// withdraw ends publications and their private heads in one transaction. Devices of
// those heads answer ErrFenced from then on, and no request of theirs is under way.
func (st *Store) withdraw(ctx context.Context, pubs []meta.Publication) error {
	var fenced []*image
	failed := true
	defer func() {
		for _, im := range fenced {
			im.endFence(failed)
		}
	}()
	for _, p := range pubs {
		if p.Access != store.AccessScratch {
			continue
		}
		unlock, err := st.lock(ctx, p.Target) // nobody opens it meanwhile
		if err != nil {
			return err
		}
		defer unlock()
		st.mu.Lock()
		im := st.images[p.Target]
		st.mu.Unlock()
		if im != nil {
			im.fence()
			fenced = append(fenced, im)
		}
	}
	var am aftermath
	err := st.cat.Update(func(tx *meta.Tx) error {
		am = aftermath{}
		for _, p := range pubs {
			if err := st.removePublication(tx, p, &am); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	failed = false
	st.settle(am)
	return nil
}

// removePublication deletes a publication, and its private head if it has one.
func (st *Store) removePublication(tx *meta.Tx, p meta.Publication, am *aftermath) error {
	if err := tx.DeletePublication(p.ID, p.Node); err != nil || p.Access != store.AccessScratch {
		return err
	}
	return st.removeImage(tx, p.Target, am)
}

// fence refuses new requests and waits for the changes under way. endFence follows.
func (im *image) fence() {
	im.fenced.Store(true)
	im.gate.Lock()
}

// endFence lets go of everything, so that the space comes back although devices are
// still open; or, if the image is to stay, admits requests again.
func (im *image) endFence(stays bool) {
	defer im.gate.Unlock()
	if stays {
		im.fenced.Store(false)
		return
	}
	st := im.st
	st.mu.Lock()
	delete(st.images, im.id)
	st.mu.Unlock()
	im.view.close()
	st.layers.release(im.head)
	im.head = nil
}
