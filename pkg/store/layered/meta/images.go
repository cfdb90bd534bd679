package meta

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Image reads one image, tombstones included.
func (t *Tx) Image(id store.ID) (Image, error) {
	img, ok, err := t.image(id)
	if err == nil && !ok {
		err = notFound("image", id)
	}
	return img, err
}

func (t *Tx) image(id store.ID) (img Image, ok bool, err error) {
	if id == "" {
		return img, false, nil
	}
	ok, err = t.getJSON(bImages, []byte(id), &img)
	return img, ok, err
}

// ImageByName reads the live image of that name.
func (t *Tx) ImageByName(name string) (Image, error) {
	if name == "" {
		return Image{}, notFound("image", `""`)
	}
	id, err := t.get(bNames, []byte(name))
	if err != nil {
		return Image{}, err
	}
	if id == nil {
		return Image{}, notFound("image", fmt.Sprintf("%q", name))
	}
	img, ok, err := t.image(store.ID(id))
	if err == nil && (!ok || img.Name != name) {
		err = dangling("name", name, "image", string(id))
	}
	return img, err
}

// PutImage writes an image and binds its name; a removed image gives its name up, and
// a scratch one never has it.
// store.ErrConflict if another live image has the name.
func (t *Tx) PutImage(img Image) error {
	if err := checkKey("image id", string(img.ID)); err != nil {
		return err
	}
	if err := checkKey("image name", img.Name); err != nil {
		return err
	}
	old, had, err := t.image(img.ID)
	if err != nil {
		return err
	}
	if img.named() && (!had || !old.named() || old.Name != img.Name) {
		if err := t.bindName(img.Name, img.ID); err != nil {
			return err
		}
	}
	if had && old.named() && (!img.named() || old.Name != img.Name) {
		if err := t.unbindName(old.Name); err != nil {
			return err
		}
	}
	if err := t.putUnnamed(img.ID, !img.named(), had && !old.named()); err != nil {
		return err
	}
	if !had || old.Root != img.Root {
		if had {
			t.mayRelink(img.ID)
		}
		if err := t.put(bRoots, []byte(img.ID), layerKey(img.Root)); err != nil {
			return err
		}
	}
	return t.putJSON(bImages, []byte(img.ID), img)
}

func (t *Tx) bindName(name string, id store.ID) error {
	other, err := t.get(bNames, []byte(name))
	if err != nil {
		return err
	}
	if other != nil {
		return fmt.Errorf("image %q: %w", name, store.ErrConflict)
	}
	if err := t.put(bNames, []byte(name), []byte(id)); err != nil {
		return err
	}
	_, err = t.addCounter(bNames, 1)
	return err
}

func (t *Tx) unbindName(name string) error {
	if err := t.del(bNames, []byte(name)); err != nil {
		return err
	}
	_, err := t.addCounter(bNames, -1)
	return err
}

func (t *Tx) putUnnamed(id store.ID, now, before bool) error {
	switch {
	case now && !before:
		return t.put(bRemoved, []byte(id), []byte{})
	case !now && before:
		return t.del(bRemoved, []byte(id))
	}
	return nil
}

// DeleteImage forgets an image wholly. store.ErrInUse while it has a layer or a
// snapshot: delete those first, in the same transaction if you like.
func (t *Tx) DeleteImage(id store.ID) error {
	img, err := t.Image(id)
	if err != nil {
		return err
	}
	for _, b := range []bucket{bOwnLayers, bSnapNames} {
		used, err := t.anyBelow(b, scopedPrefix(id))
		if err != nil {
			return err
		}
		if used {
			return fmt.Errorf("delete image %s from the catalogue: it has entries in %s: %w", id, b, store.ErrInUse)
		}
	}
	if img.named() {
		if err := t.unbindName(img.Name); err != nil {
			return err
		}
	}
	if err := t.putUnnamed(id, false, !img.named()); err != nil {
		return err
	}
	if err := t.del(bRoots, []byte(id)); err != nil {
		return err
	}
	return t.del(bImages, []byte(id))
}

// anyBelow tells whether any key starts with prefix.
func (t *Tx) anyBelow(b bucket, prefix []byte) (found bool, err error) {
	err = t.scan(b, prefix, func(_, _ []byte) (bool, error) {
		found = true
		return false, nil
	})
	return found, err
}

// WalkImages calls fn for every image: the live ones in the order of names, then
// the removed and the scratch ones in the order of ids. fn may change the catalogue; images that it
// deletes are not visited. An error of fn ends the walk and is returned.
func (t *Tx) WalkImages(fn func(Image) error) error {
	var ids []store.ID
	if err := t.scan(bNames, nil, func(_, v []byte) (bool, error) {
		ids = append(ids, store.ID(v))
		return true, nil
	}); err != nil {
		return err
	}
	if err := t.scan(bRemoved, nil, func(k, _ []byte) (bool, error) {
		ids = append(ids, store.ID(k))
		return true, nil
	}); err != nil {
		return err
	}
	for _, id := range ids {
		img, ok, err := t.image(id)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := fn(img); err != nil {
			return err
		}
	}
	return nil
}

// Counts tells how many images (live, not scratch), named snapshots and layers there are, in O(1).
func (t *Tx) Counts() (images, snapshots, layers int, err error) {
	var n [3]uint64
	for i, b := range []bucket{bNames, bSnapshots, bLayers} {
		if n[i], err = t.counter(b); err != nil {
			return 0, 0, 0, err
		}
	}
	return int(n[0]), int(n[1]), int(n[2]), nil
}
