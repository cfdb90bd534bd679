package meta

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Verify reads the whole catalogue and reports every broken invariant. An empty
// result means that all rows are whole, every reference leads to a row, and every
// index says what the rows say.
func (t *Tx) Verify() []store.Problem {
	v := &verifier{t: t, images: map[store.ID]Image{}, snapshots: map[store.ID]Snapshot{}, layers: map[LayerID]Layer{}, scratch: map[store.ID]bool{}}
	v.load()
	v.checkImages()
	v.checkSnapshots()
	v.checkLayers()
	v.checkPublications()
	v.checkIntents()
	v.checkIndexes()
	v.checkCounts()
	return v.found
}

type verifier struct {
	t         *Tx
	images    map[store.ID]Image
	snapshots map[store.ID]Snapshot
	layers    map[LayerID]Layer
	scratch   map[store.ID]bool // private heads of which no publication was seen
	found     []store.Problem
}

func (v *verifier) damage(object, format string, args ...any) {
	v.found = append(v.found, store.Problem{Object: object, Text: fmt.Sprintf(format, args...)})
}

func (v *verifier) harmless(object, format string, args ...any) {
	v.found = append(v.found, store.Problem{Object: object, Text: fmt.Sprintf(format, args...), Harmless: true})
}

// try reports an error of reading as a problem.
func (v *verifier) try(object string, err error) {
	if err != nil {
		v.damage(object, "%v", err)
	}
}

// load reads the rows. A bad row is reported and left out; what refers to it is
// then reported too.
func (v *verifier) load() {
	v.eachRow(bImages, func(k, content []byte) error {
		var img Image
		if err := decodeJSON(bImages, k, content, &img); err != nil {
			return err
		}
		v.images[store.ID(k)] = img
		return nil
	})
	v.eachRow(bSnapshots, func(k, content []byte) error {
		var s Snapshot
		if err := decodeJSON(bSnapshots, k, content, &s); err != nil {
			return err
		}
		v.snapshots[store.ID(k)] = s
		return nil
	})
	v.eachRow(bLayers, func(k, content []byte) error {
		id, err := lastLayer(k)
		if err != nil {
			return err
		}
		l, err := decodeLayer(id, content)
		if err != nil {
			return err
		}
		v.layers[id] = l
		return nil
	})
	for _, b := range []bucket{bJobs, bMarks} {
		v.eachRow(b, func(_, _ []byte) error { return nil })
	}
}

func (v *verifier) eachRow(b bucket, fn func(k, content []byte) error) {
	v.try("catalogue", v.t.scan(b, nil, func(k, row []byte) (bool, error) {
		content, err := openRow(b, k, row)
		if err == nil {
			err = fn(k, content)
		}
		v.try(fmt.Sprintf("%s %x", b, k), err)
		return true, nil
	}))
}

func (v *verifier) checkImages() {
	owned := map[store.ID]bool{}
	for _, l := range v.layers {
		owned[l.Image] = true
	}
	for _, id := range sorted(v.images) {
		img, name := v.images[id], "image "+string(id)
		if img.ID != id {
			v.damage(name, "its row says it is image %s", img.ID)
		}
		v.checkHead(name, img)
		v.checkRoot(name, img)
		if img.Scratch && !img.Removed {
			v.scratch[id] = true
		}
		if img.Removed && !owned[id] {
			v.harmless(name, "is removed and no layer of it is left")
		}
	}
}

func (v *verifier) checkHead(name string, img Image) {
	head, ok := v.layers[img.Head]
	switch {
	case img.Removed && img.Head != 0:
		v.damage(name, "is removed and has head layer %d", img.Head)
	case img.Removed:
	case img.Head == 0:
		v.damage(name, "has no head layer")
	case !ok:
		v.damage(name, "head layer %d does not exist", img.Head)
	case head.Image != img.ID:
		v.damage(name, "head layer %d belongs to image %s", img.Head, head.Image)
	case head.Sealed:
		v.damage(name, "head layer %d is sealed", img.Head)
	}
}

func (v *verifier) checkRoot(name string, img Image) {
	root, ok := v.layers[img.Root]
	switch {
	case img.Root == 0 && img.Removed:
		// Nothing of it is left but snapshots that were moved elsewhere.
	case img.Root == 0:
		v.damage(name, "has no root layer")
	case !ok:
		v.damage(name, "root layer %d does not exist", img.Root)
	case root.Image != img.ID:
		v.damage(name, "root layer %d belongs to image %s", img.Root, root.Image)
	case root.Parent != 0 && v.layers[root.Parent].Image == img.ID:
		v.damage(name, "root layer %d lies on layer %d of the same image", img.Root, root.Parent)
	}
}

func (v *verifier) checkSnapshots() {
	for _, id := range sorted(v.snapshots) {
		s, name := v.snapshots[id], "snapshot "+string(id)
		if s.ID != id {
			v.damage(name, "its row says it is snapshot %s", s.ID)
		}
		if _, ok := v.images[s.Image]; !ok {
			v.damage(name, "image %s does not exist", s.Image)
		}
		if l, ok := v.layers[s.Layer]; !ok {
			v.damage(name, "layer %d does not exist", s.Layer)
		} else if !l.Sealed {
			v.damage(name, "layer %d is not sealed", s.Layer)
		}
	}
}

func (v *verifier) checkLayers() {
	_, next, err := v.t.Reserved()
	v.try("catalogue", err)
	rooted := map[LayerID]bool{0: true}
	for _, id := range sorted(v.layers) {
		l, name := v.layers[id], fmt.Sprintf("layer %d", id)
		if err == nil && id >= next {
			v.damage(name, "its id was never handed out, the next is %d", next)
		}
		img, ok := v.images[l.Image]
		switch {
		case !ok:
			v.damage(name, "image %s does not exist", l.Image)
		case !l.Sealed && img.Head != id:
			v.damage(name, "is not sealed and not the head of image %s", l.Image)
		case !l.Sealed && l.Data != 0:
			v.damage(name, "is not sealed and counts %d data blocks", l.Data)
		}
		v.checkParent(name, l)
		v.checkMerge(name, l)
		if !v.climb(id, rooted) {
			v.damage(name, "its ancestry goes round in a circle")
		}
	}
}

func (v *verifier) checkParent(name string, l Layer) {
	if l.Overlap < 0 || l.Overlap > l.Size {
		v.damage(name, "overlap %d exceeds its size %d", l.Overlap, l.Size)
	}
	if l.Parent == 0 {
		if l.Overlap != 0 {
			v.damage(name, "has overlap %d and no parent", l.Overlap)
		}
		return
	}
	p, ok := v.layers[l.Parent]
	switch {
	case !ok:
		v.damage(name, "parent layer %d does not exist", l.Parent)
	case !p.Sealed:
		v.damage(name, "parent layer %d is not sealed", l.Parent)
	case l.Overlap > p.Size:
		v.damage(name, "overlap %d exceeds the size %d of parent layer %d", l.Overlap, p.Size, l.Parent)
	case p.Image != l.Image && v.images[l.Image].Root != l.ID:
		v.damage(name, "lies on layer %d of image %s and is not the root of image %s", l.Parent, p.Image, l.Image)
	}
}

func (v *verifier) checkMerge(name string, l Layer) {
	if l.Merging == 0 {
		return
	}
	other, ok := v.layers[l.Merging]
	if !ok {
		v.damage(name, "merges with layer %d, which does not exist", l.Merging)
	} else if other.Parent != l.ID && l.Parent != other.ID {
		v.damage(name, "merges with layer %d, which is neither its parent nor its child", l.Merging)
	}
}

// climb marks the way from id to a root and tells whether there is one. A missing
// parent ends the way; that is reported elsewhere.
func (v *verifier) climb(id LayerID, rooted map[LayerID]bool) bool {
	way := map[LayerID]bool{}
	for !rooted[id] {
		if way[id] {
			return false
		}
		way[id] = true
		id = v.layers[id].Parent
	}
	maps.Copy(rooted, way)
	return true
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
