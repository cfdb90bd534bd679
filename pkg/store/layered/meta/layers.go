package meta

import (
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Layer reads one layer.
func (t *Tx) Layer(id LayerID) (Layer, error) {
	l, ok, err := t.layer(id)
	if err == nil && !ok {
		err = notFound("layer", id)
	}
	return l, err
}

func (t *Tx) layer(id LayerID) (l Layer, ok bool, err error) {
	content, err := t.getRow(bLayers, layerKey(id))
	if err != nil || content == nil {
		return l, false, err
	}
	l, err = decodeLayer(id, content)
	return l, err == nil, err
}

// PutLayer writes a layer and its place in the indexes of children and of own
// layers. A new parent must exist (store.ErrNotFound) and take references
// (store.ErrBusy if it is being merged).
func (t *Tx) PutLayer(l Layer) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	old, had, err := t.layer(l.ID)
	if err != nil {
		return err
	}
	if l.Parent != 0 && (!had || old.Parent != l.Parent) {
		if err := t.takesReference(l.Parent); err != nil {
			return fmt.Errorf("layer %d: parent: %w", l.ID, err)
		}
	}
	if had && (old.Parent != l.Parent || old.Image != l.Image) {
		if err := errors.Join(t.movesLayer(old, l), t.unindexLayer(old)); err != nil {
			return err
		}
	}
	if !had {
		if _, err := t.addCounter(bLayers, 1); err != nil {
			return err
		}
	}
	if !had || old.Parent != l.Parent || old.Image != l.Image {
		if err := t.indexLayer(l); err != nil {
			return err
		}
	}
	return t.putRow(bLayers, layerKey(l.ID), encodeLayer(l))
}

func checkLayer(l Layer) error {
	if err := checkKey("image id of a layer", string(l.Image)); err != nil {
		return err
	}
	if l.ID == 0 || l.Parent == l.ID || l.Overlap < 0 || l.Size < l.Overlap || l.Data < 0 {
		return fmt.Errorf("catalogue: layer %d (parent %d, overlap %d, size %d, data %d) is impossible: %w",
			l.ID, l.Parent, l.Overlap, l.Size, l.Data, store.ErrInvalid)
	}
	return nil
}

// takesReference refuses a layer that a merge is about to dissolve.
func (t *Tx) takesReference(id LayerID) error {
	l, err := t.Layer(id)
	if err != nil {
		return err
	}
	if l.Merging != 0 {
		return fmt.Errorf("layer %d is being merged with layer %d: %w", id, l.Merging, store.ErrBusy)
	}
	return nil
}

func (t *Tx) indexLayer(l Layer) error {
	if l.Parent != 0 {
		if err := t.put(bChildren, childKey(l.Parent, l.ID), []byte{}); err != nil {
			return err
		}
	}
	return t.put(bOwnLayers, ownLayerKey(l.Image, l.ID), []byte{})
}

func (t *Tx) unindexLayer(l Layer) error {
	if l.Parent != 0 {
		if err := t.del(bChildren, childKey(l.Parent, l.ID)); err != nil {
			return err
		}
	}
	return t.del(bOwnLayers, ownLayerKey(l.Image, l.ID))
}

// DeleteLayer forgets a layer. store.ErrInUse while it has a child or is the head
// of its image or under a snapshot.
func (t *Tx) DeleteLayer(id LayerID) error {
	l, err := t.Layer(id)
	if err != nil {
		return err
	}
	child, err := t.anyBelow(bChildren, layerKey(id))
	if err != nil {
		return err
	}
	referenced, err := t.Referenced(id)
	if err != nil {
		return err
	}
	if child || referenced {
		return fmt.Errorf("delete layer %d from the catalogue: it has a child, a snapshot or is a head: %w", id, store.ErrInUse)
	}
	if err := t.unindexLayer(l); err != nil {
		return err
	}
	if _, err := t.addCounter(bLayers, -1); err != nil {
		return err
	}
	return t.del(bLayers, layerKey(id))
}

// Children lists the layers directly above one, in the order of ids.
func (t *Tx) Children(id LayerID) ([]LayerID, error) { return t.layersBelow(bChildren, layerKey(id)) }

// LayersOf lists the layers that an image owns, in the order of ids.
func (t *Tx) LayersOf(image store.ID) ([]LayerID, error) {
	return t.layersBelow(bOwnLayers, scopedPrefix(image))
}

func (t *Tx) layersBelow(b bucket, prefix []byte) ([]LayerID, error) {
	var out []LayerID
	err := t.scan(b, prefix, func(k, _ []byte) (bool, error) {
		id, err := lastLayer(k)
		out = append(out, id)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ChildCount counts children and stops at most, so that "none", "one" and "more"
// can be told in O(1).
func (t *Tx) ChildCount(id LayerID, most int) (n int, err error) {
	if most <= 0 {
		return 0, nil
	}
	err = t.scan(bChildren, layerKey(id), func(_, _ []byte) (bool, error) {
		n++
		return n < most, nil
	})
	return n, err
}

// Referenced tells whether a layer is the head of its image or the view of a
// snapshot. Children are not references in this sense.
func (t *Tx) Referenced(id LayerID) (bool, error) {
	l, err := t.Layer(id)
	if err != nil {
		return false, err
	}
	named, err := t.anyBelow(bSnapLayers, layerKey(id))
	if err != nil || named {
		return named, err
	}
	img, ok, err := t.image(l.Image)
	return ok && img.Head == id, err
}
