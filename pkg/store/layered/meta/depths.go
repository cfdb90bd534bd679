package meta

import (
	"fmt"
	"slices"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// mostDepths bounds how many depths are remembered, at about 100 bytes each.
const mostDepths = 1 << 16

// depths remembers how deep images are, so that clones and snapshots cost the same at
// any depth. Only changes of clone links make it forget, not new images, layers or
// snapshots. All methods may be called concurrently.
type depths struct {
	mu sync.Mutex
	// since is the transaction that last changed a clone link. Those before it, which
	// may still be read, neither use nor add to what is remembered.
	since int
	of    map[store.ID]int
}

// get tells what a transaction may know of an image's depth.
func (d *depths) get(tx int, image store.ID) (depth int, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if tx < d.since {
		return 0, false
	}
	depth, known = d.of[image]
	return depth, known
}

// learn remembers a path of images, each cloned from the next; the last one has the
// depth given.
func (d *depths) learn(tx int, path []store.ID, depth int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if tx < d.since {
		return
	}
	if len(d.of)+len(path) > mostDepths || d.of == nil {
		d.of = make(map[store.ID]int)
	}
	for _, image := range slices.Backward(path) {
		d.of[image] = depth
		depth++
	}
}

// forget is called before a transaction that changes clone links is committed. Should
// it fail, the next one has the same number and what it sees is right.
func (d *depths) forget(tx int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since, d.of = tx, nil
}

// Depth counts the clone links from an image up to the root, removed images included.
// It costs one lookup, whatever the depth, unless a clone link was changed since the
// image was last asked for.
func (t *Tx) Depth(image store.ID) (int, error) {
	if known, err := t.has(bImages, []byte(image)); err != nil || !known {
		return 0, orNotFound(err, "image", image)
	}
	if t.relinked() {
		path, err := t.Ancestry(image)
		return len(path) - 1, err
	}
	most, err := t.counter(bLayers)
	if err != nil {
		return 0, err
	}
	tx := t.b.ID()
	path := []store.ID{image}
	for {
		last := path[len(path)-1]
		depth, known := t.depths.get(tx, last)
		if !known {
			parent, err := t.parentImage(last)
			if err != nil {
				return 0, fmt.Errorf("depth of image %s: %w", image, err)
			}
			if parent != "" {
				if path = append(path, parent); uint64(len(path)) > most {
					return 0, fmt.Errorf("ancestry of image %s goes round in a circle: %w", image, store.ErrCorrupt)
				}
				continue
			}
		}
		if !t.dirty { // what a change made may not come to be
			t.depths.learn(tx, path, depth)
		}
		return depth + len(path) - 1, nil
	}
}

// movesLayer notes whose clone links a layer's new parent or owner may change.
func (t *Tx) movesLayer(before, after Layer) error {
	t.mayRelink(before.Image)
	if before.Image == after.Image {
		return nil
	}
	t.mayRelink(after.Image)
	children, err := t.Children(before.ID)
	for _, id := range children {
		child, err := t.Layer(id)
		if err != nil {
			return err
		}
		t.mayRelink(child.Image)
	}
	return err
}

// mayRelink notes where an image's clone link leads before something of it changes:
// merges change it and leave it leading to the same image.
func (t *Tx) mayRelink(image store.ID) {
	if _, noted := t.links[image]; noted {
		return
	}
	if t.links == nil {
		t.links = make(map[store.ID]store.ID)
	}
	before, err := t.parentImage(image)
	if err != nil {
		before = image // which it never is
	}
	t.links[image] = before
}

// relinked tells whether a clone link leads elsewhere than before the transaction.
func (t *Tx) relinked() bool {
	for image, before := range t.links {
		if after, err := t.parentImage(image); err != nil || after != before {
			return true
		}
	}
	return false
}
