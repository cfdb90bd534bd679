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

// Create implements store.Store. A clone costs one catalogue transaction and the
// files of one empty layer, whatever the size and depth of its parent.
func (st *Store) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	info, done, err := st.precheck(spec)
	if done || err != nil {
		return info, err
	}
	if spec.Parent == "" {
		return st.createEmpty(spec)
	}
	parent, err := st.Stat(ctx, spec.Parent)
	if err != nil {
		return info, fmt.Errorf("create image %q: parent: %w", spec.Name, err)
	}
	if err := errors.Join(st.notHead(parent.ID), refuseFaulty(parent)); err != nil {
		return info, fmt.Errorf("create image %q: parent: %w", spec.Name, err)
	}
	if err := inherit(&spec, parent); err != nil {
		return info, err
	}
	if parent.Kind == store.KindSnapshot {
		return st.cloneSnapshot(spec)
	}
	return st.cloneImage(ctx, spec)
}

// precheck refuses a malformed request before anything is made; done says that an
// equal request was served already.
func (st *Store) precheck(spec store.Spec) (info store.Info, done bool, err error) {
	if err := st.alive(); err != nil {
		return info, false, err
	}
	if err := store.ValidateName(store.KindImage, spec.Name); err != nil {
		return info, false, err
	}
	if spec.Size != 0 || spec.Parent == "" {
		if err := store.ValidateSize(spec.Size); err != nil {
			return info, false, fmt.Errorf("create image %q: %w", spec.Name, err)
		}
	}
	if spec.BlockSize != 0 {
		if err := store.ValidateBlockSize(spec.BlockSize); err != nil {
			return info, false, fmt.Errorf("create image %q: %w", spec.Name, err)
		}
	}
	if err := errors.Join(store.ValidatePolicy(spec.Policy), store.ValidateLimits(spec.Limits)); err != nil {
		return info, false, fmt.Errorf("create image %q: %w", spec.Name, err)
	}
	if len(spec.Digest) > 256 {
		return info, false, fmt.Errorf("create image %q: digest of %d bytes, at most 256: %w", spec.Name, len(spec.Digest), store.ErrInvalid)
	}
	err = st.cat.View(func(tx *meta.Tx) error {
		info, err = st.existing(tx, spec)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return store.Info{}, false, st.admit(fmt.Sprintf("create image %q", spec.Name))
	}
	return info, err == nil, err
}

// existing finds the image an equal request made, ErrConflict for an unequal one.
func (st *Store) existing(tx *meta.Tx, spec store.Spec) (store.Info, error) {
	img, err := tx.ImageByName(spec.Name)
	if err != nil {
		return store.Info{}, err
	}
	if spec.Digest == "" || spec.Digest != img.Digest {
		return store.Info{}, fmt.Errorf("image %q: %w", spec.Name, store.ErrConflict)
	}
	return st.imageInfo(tx, img)
}

// inherit completes a clone's request from its parent.
func inherit(spec *store.Spec, parent store.Info) error {
	if spec.Size == 0 {
		spec.Size = parent.Size
	}
	if spec.Size < parent.Size {
		return fmt.Errorf("create image %q: size %d is smaller than the %d bytes of %s: %w", spec.Name, spec.Size, parent.Size, parent.Ref(), store.ErrRange)
	}
	if spec.BlockSize == 0 {
		spec.BlockSize = parent.BlockSize
	}
	if spec.Policy.Soft == 0 {
		spec.Policy.Soft = parent.Policy.Soft
	}
	if spec.Policy.Hard == 0 {
		spec.Policy.Hard = max(parent.Policy.Hard, spec.Policy.Soft)
	}
	return nil
}

func (st *Store) createEmpty(spec store.Spec) (store.Info, error) {
	if spec.BlockSize == 0 {
		spec.BlockSize = store.Block
	}
	return st.addImage(spec, func(*meta.Tx, *aftermath) (meta.Layer, error) { return meta.Layer{}, nil })
}

func (st *Store) cloneSnapshot(spec store.Spec) (store.Info, error) {
	return st.addImage(spec, func(tx *meta.Tx, _ *aftermath) (meta.Layer, error) {
		s, err := tx.Snapshot(spec.Parent)
		if err != nil {
			return meta.Layer{}, err
		}
		return tx.Layer(s.Layer)
	})
}

// cloneImage clones an image as it is now: from the layer under an unchanged head,
// else from the head, sealed in the same transaction.
func (st *Store) cloneImage(ctx context.Context, spec store.Spec) (store.Info, error) {
	unlock, err := st.hold(ctx, spec.Parent)
	if err != nil {
		return store.Info{}, err
	}
	defer unlock()
	im, err := st.use(spec.Parent)
	if err != nil {
		return store.Info{}, fmt.Errorf("create image %q: parent: %w", spec.Name, err)
	}
	defer im.done()
	var info store.Info
	err = im.freeze(func(seal *sealing) error {
		info, err = st.addImage(spec, seal.apply)
		return err
	})
	return info, err
}

// addImage makes an image over the layer that parent returns, in one transaction.
func (st *Store) addImage(spec store.Spec, parent func(*meta.Tx, *aftermath) (meta.Layer, error)) (store.Info, error) {
	img := meta.Image{ID: store.NewID(), Name: spec.Name, Created: time.Now().UTC(), BlockSize: spec.BlockSize,
		Policy: spec.Policy, Limits: spec.Limits, Digest: spec.Digest, Origin: spec.Parent}
	f, err := st.makeLayer(meta.Layer{Image: img.ID, Size: spec.Size})
	if err != nil {
		return store.Info{}, fmt.Errorf("create image %q: %w", spec.Name, err)
	}
	img.Head, img.Root = f.id, f.id
	var info store.Info
	var am aftermath
	err = st.cat.Update(func(tx *meta.Tx) error {
		am = aftermath{}
		if old, err := st.existing(tx, spec); !errors.Is(err, store.ErrNotFound) {
			info = old
			return orConflict(err)
		}
		below, err := parent(tx, &am)
		if err != nil {
			return err
		}
		row := meta.Layer{ID: f.id, Image: img.ID, Parent: below.ID, Overlap: below.Size, Size: spec.Size}
		if below.Size > spec.Size {
			return fmt.Errorf("size %d is smaller than the parent's %d bytes: %w", spec.Size, below.Size, store.ErrRange)
		}
		img.Overlap = below.Size
		if img.Format, err = formatOf(tx, spec.Parent); err != nil {
			return err
		}
		if err := errors.Join(tx.PutLayer(row), tx.PutImage(img)); err != nil {
			return err
		}
		if err := st.limitDepth(tx, img, spec.Flatten, &am); err != nil {
			return err
		}
		info, err = st.imageInfo(tx, img)
		return err
	})
	if err != nil {
		f.drop()
		st.urge(err)
		if errors.Is(err, errServed) {
			return info, nil
		}
		return store.Info{}, fmt.Errorf("create image %q: %w", spec.Name, err)
	}
	failpoint.Hit("layered.create")
	f.keep()
	st.settle(am)
	if am.flattening(img.ID) {
		info.State = store.StateFlattening
	}
	return info, nil
}

// formatOf is what is known of the content of a clone's parent, "" for none.
func formatOf(tx *meta.Tx, parent store.ID) (store.Format, error) {
	if parent == "" {
		return store.FormatNone, nil
	}
	img, err := tx.Image(parent)
	if !errors.Is(err, store.ErrNotFound) {
		return img.Format, err
	}
	s, err := tx.Snapshot(parent)
	return s.Format, err
}

// errServed ends a transaction whose work another, equal request has done.
var errServed = errors.New("served already")

func orConflict(err error) error {
	if err == nil {
		return errServed
	}
	return err
}
