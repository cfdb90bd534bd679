package meta

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// plain is the catalogue as maps, with every question answered by search.
type plain struct {
	images    map[store.ID]Image
	snapshots map[store.ID]Snapshot
	layers    map[LayerID]Layer
	next      LayerID
}

func (p *plain) clone() *plain {
	return &plain{maps.Clone(p.images), maps.Clone(p.snapshots), maps.Clone(p.layers), p.next}
}

func (p *plain) children(id LayerID) (out []LayerID) {
	for _, l := range sorted(p.layers) {
		if p.layers[l].Parent == id {
			out = append(out, l)
		}
	}
	return out
}

func (p *plain) referenced(id LayerID) bool {
	if p.images[p.layers[id].Image].Head == id {
		return true
	}
	for _, s := range p.snapshots {
		if s.Layer == id {
			return true
		}
	}
	return false
}

func (p *plain) own(image store.ID) (out []LayerID) {
	for _, l := range sorted(p.layers) {
		if p.layers[l].Image == image {
			out = append(out, l)
		}
	}
	return out
}

func (p *plain) path(image store.ID) []store.ID {
	out := []store.ID{image}
	for {
		parent := p.layers[p.images[out[len(out)-1]].Root].Parent
		if parent == 0 {
			return out
		}
		out = append(out, p.layers[parent].Image)
	}
}

// TestRandomAgainstMaps does what the engine does, in random order, to the catalogue
// and to maps, and compares every answer. Every transaction is verified; some are
// rolled back, and now and then the file is opened again after a crash.
func TestRandomAgainstMaps(t *testing.T) {
	rng := newRand(t)
	for range 6 {
		path := newFile(t)
		d, err := Open(path, Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		m := &plain{map[store.ID]Image{}, map[store.ID]Snapshot{}, map[LayerID]Layer{}, 1}
		for range 150 {
			next := m.clone()
			rollback := rng.IntN(8) == 0
			stop := errors.New("roll back")
			err := d.Update(func(tx *Tx) error {
				if err := step(rng, tx, next); err != nil {
					return err
				}
				if rollback {
					return stop
				}
				return nil
			})
			if err != nil && !errors.Is(err, stop) {
				t.Fatal(err)
			}
			if !rollback {
				m = next
			}
			mustVerify(t, d)
			compare(t, d, m)
			if t.Failed() {
				t.FailNow()
			}
			if rng.IntN(20) == 0 {
				d.Abandon()
				if d, err = Open(path, Options{NoSync: true}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func pickKey[K ~string | ~uint64, V any](rng *rand.Rand, m map[K]V, ok func(V) bool) (k K, found bool) {
	var keys []K
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if ok(m[k]) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return k, false
	}
	return keys[rng.IntN(len(keys))], true
}

func step(rng *rand.Rand, tx *Tx, m *plain) error {
	live := func(i Image) bool { return !i.Removed }
	switch rng.IntN(8) {
	case 0:
		return create(rng, tx, m, 0)
	case 1, 2:
		if s, ok := pickKey(rng, m.snapshots, func(Snapshot) bool { return true }); ok {
			return create(rng, tx, m, m.snapshots[s].Layer)
		}
	case 3, 4:
		if id, ok := pickKey(rng, m.images, live); ok {
			return takeSnapshot(rng, tx, m, id)
		}
	case 5:
		if id, ok := pickKey(rng, m.snapshots, func(Snapshot) bool { return true }); ok {
			delete(m.snapshots, id)
			return errors.Join(tx.DeleteSnapshot(id), sweep(tx, m))
		}
	case 6:
		if id, ok := pickKey(rng, m.images, live); ok {
			return removeImage(tx, m, id)
		}
	case 7:
		if id, ok := pickKey(rng, m.images, live); ok {
			return cut(tx, m, id)
		}
	}
	return nil
}

func create(rng *rand.Rand, tx *Tx, m *plain, parent LayerID) error {
	id, err := tx.NextLayer()
	if err != nil || id != m.next {
		return fmt.Errorf("layer id %d, want %d: %w", id, m.next, err)
	}
	m.next++
	l := Layer{ID: id, Image: store.NewID(), Parent: parent, Size: 1 << 20}
	if parent != 0 {
		l.Overlap = min(l.Size, m.layers[parent].Size)
	}
	img := Image{ID: l.Image, Name: fmt.Sprintf("n%d", rng.IntN(12)), BlockSize: 4096, Head: id, Root: id}
	if err := tx.PutLayer(l); err != nil {
		return err
	}
	for _, other := range m.images {
		if other.Name == img.Name && !other.Removed {
			if err := tx.PutImage(img); !errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("second image %q: %w", img.Name, err)
			}
			return tx.DeleteLayer(id)
		}
	}
	m.layers[id], m.images[img.ID] = l, img
	return tx.PutImage(img)
}

func takeSnapshot(rng *rand.Rand, tx *Tx, m *plain, id store.ID) error {
	img := m.images[id]
	s := Snapshot{ID: store.NewID(), Image: id, Name: fmt.Sprintf("s%d", rng.IntN(5)), Layer: img.Head}
	for _, other := range m.snapshots {
		if other.Image == id && other.Name == s.Name {
			if err := tx.PutSnapshot(s); !errors.Is(err, store.ErrConflict) {
				return fmt.Errorf("second snapshot %q: %w", s.Name, err)
			}
			return nil
		}
	}
	head, err := tx.NextLayer()
	if err != nil {
		return err
	}
	m.next = head + 1
	old := m.layers[img.Head]
	old.Sealed, old.Data = true, rng.Int64N(100)
	above := Layer{ID: head, Image: id, Parent: old.ID, Size: old.Size, Overlap: old.Size}
	img.Head = head
	m.layers[old.ID], m.layers[head], m.images[id], m.snapshots[s.ID] = old, above, img, s
	return errors.Join(tx.PutLayer(old), tx.PutLayer(above), tx.PutImage(img), tx.PutSnapshot(s))
}

func removeImage(tx *Tx, m *plain, id store.ID) error {
	img := m.images[id]
	head := img.Head
	img.Removed, img.Head = true, 0
	m.images[id] = img
	delete(m.layers, head)
	return errors.Join(tx.PutImage(img), tx.DeleteLayer(head), sweep(tx, m))
}

// cut is the end of a flatten.
func cut(tx *Tx, m *plain, id store.ID) error {
	root := m.layers[m.images[id].Root]
	root.Parent, root.Overlap = 0, 0
	m.layers[root.ID] = root
	return errors.Join(tx.PutLayer(root), sweep(tx, m))
}

// sweep deletes layers that nothing needs, and tombstones with their last layer.
func sweep(tx *Tx, m *plain) error {
	for again := true; again; {
		again = false
		for _, id := range sorted(m.layers) {
			if len(m.children(id)) > 0 || m.referenced(id) {
				continue
			}
			delete(m.layers, id)
			again = true
			if err := tx.DeleteLayer(id); err != nil {
				return err
			}
		}
	}
	for _, id := range sorted(m.images) {
		if m.images[id].Removed && len(m.own(id)) == 0 {
			delete(m.images, id)
			if err := tx.DeleteImage(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func compare(t *testing.T, d *DB, m *plain) {
	t.Helper()
	view(t, d, func(tx *Tx) error {
		live := 0
		seen := map[store.ID]bool{}
		if err := tx.WalkImages(func(img Image) error {
			seen[img.ID] = true
			if !img.Removed {
				live++
			}
			if !reflect.DeepEqual(img, m.images[img.ID]) {
				t.Errorf("image %+v, want %+v", img, m.images[img.ID])
			}
			equal(t, m.path(img.ID))(tx.Ancestry(img.ID))
			equal(t, len(m.path(img.ID))-1)(tx.Depth(img.ID))
			equal(t, m.own(img.ID))(tx.LayersOf(img.ID))
			return nil
		}); err != nil {
			return err
		}
		for id, l := range m.layers {
			equal(t, l)(tx.Layer(id))
			equal(t, m.children(id))(tx.Children(id))
			equal(t, min(2, len(m.children(id))))(tx.ChildCount(id, 2))
			equal(t, m.referenced(id))(tx.Referenced(id))
		}
		for id, s := range m.snapshots {
			equal(t, s)(tx.Snapshot(id))
			equal(t, s)(tx.SnapshotByName(s.Image, s.Name))
		}
		i, s, l, err := tx.Counts()
		if i != live || s != len(m.snapshots) || l != len(m.layers) || len(seen) != len(m.images) {
			t.Errorf("counts %d %d %d, walked %d", i, s, l, len(seen))
		}
		return err
	})
}
