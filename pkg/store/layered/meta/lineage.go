package meta

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Ancestry lists an image and the images below it, along the clone links, up to the
// root; removed ones included. Its length minus one is the image's depth. The cost
// is three lookups a link, whatever the number of snapshots and layers.
func (t *Tx) Ancestry(image store.ID) ([]store.ID, error) {
	if known, err := t.has(bImages, []byte(image)); err != nil || !known {
		return nil, orNotFound(err, "image", image)
	}
	most, err := t.counter(bLayers)
	if err != nil {
		return nil, err
	}
	path := []store.ID{image}
	for {
		parent, err := t.parentImage(path[len(path)-1])
		if err != nil {
			return nil, fmt.Errorf("ancestry of image %s: %w", image, err)
		}
		if parent == "" {
			return path, nil
		}
		if path = append(path, parent); uint64(len(path)) > most {
			return nil, fmt.Errorf("ancestry of image %s goes round in a circle: %w", image, store.ErrCorrupt)
		}
	}
}

// parentImage is the owner of the layer below the image's root, "" for none.
func (t *Tx) parentImage(image store.ID) (store.ID, error) {
	root, err := t.getLayerID(bRoots, []byte(image))
	if err != nil || root == 0 {
		return "", err
	}
	bottom, ok, err := t.layer(root)
	if err != nil || !ok {
		return "", orDangling(err, "root of image", string(image), root)
	}
	if bottom.Parent == 0 {
		return "", nil
	}
	below, ok, err := t.layer(bottom.Parent)
	if err != nil || !ok {
		return "", orDangling(err, "parent of layer", fmt.Sprint(root), bottom.Parent)
	}
	return below.Image, nil
}

func orNotFound(err error, kind string, id any) error {
	if err != nil {
		return err
	}
	return notFound(kind, id)
}

func orDangling(err error, index, key string, layer LayerID) error {
	if err != nil {
		return err
	}
	return dangling(index, key, "layer", fmt.Sprint(layer))
}
