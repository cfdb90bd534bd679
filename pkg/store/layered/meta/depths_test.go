package meta

import (
	"errors"
	"fmt"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

func chainID(i int) store.ID { return store.ID(fmt.Sprintf("%036d", i)) }

// TestDepthCostsTheSame: asking for a depth again costs the same at any depth.
func TestDepthCostsTheSame(t *testing.T) {
	var cost [2]float64
	for i, depth := range []int{1, 64} {
		d := chainOf(t, depth, Options{NoSync: true})
		view(t, d, func(tx *Tx) error {
			equal(t, depth)(tx.Depth(chainID(depth)))
			cost[i] = testing.AllocsPerRun(100, func() { equal(t, depth)(tx.Depth(chainID(depth))) })
			return nil
		})
	}
	if cost[0] != cost[1] {
		t.Errorf("the depth of an image at depth 1 costs %v allocations, at depth 64 %v", cost[0], cost[1])
	}
}

// cutChain makes image i of a chain flat.
func cutChain(tx *Tx, i int) error {
	img, err := tx.Image(chainID(i))
	if err != nil {
		return err
	}
	root, err := tx.Layer(img.Root)
	root.Parent, root.Overlap = 0, 0
	return errors.Join(err, tx.PutLayer(root))
}

// TestDepthAfterCut: each transaction sees the depths of its own state, before, during
// and after a change of a clone link, and after one that failed.
func TestDepthAfterCut(t *testing.T) {
	d := chainOf(t, 10, Options{NoSync: true})
	want := func(tx *Tx, n ...int) {
		t.Helper()
		for i, id := range []int{10, 3, 2} {
			equal(t, n[i])(tx.Depth(chainID(id)))
		}
	}
	errNo := errors.New("changed my mind")
	err := d.Update(func(tx *Tx) error {
		want(tx, 10, 3, 2)
		if err := cutChain(tx, 3); err != nil {
			return err
		}
		want(tx, 7, 0, 2)
		return errNo
	})
	if !errors.Is(err, errNo) {
		t.Fatal(err)
	}
	view(t, d, func(old *Tx) error {
		want(old, 10, 3, 2)
		update(t, d, func(tx *Tx) error { return cutChain(tx, 3) })
		want(old, 10, 3, 2)
		view(t, d, func(tx *Tx) error { want(tx, 7, 0, 2); return nil })
		want(old, 10, 3, 2)
		return nil
	})
	view(t, d, func(tx *Tx) error { want(tx, 7, 0, 2); return nil })
}

// TestDepthOfFailedClone: what a transaction makes and gives up again leaves nothing
// behind, and a clone made later under the same id has its own depth.
func TestDepthOfFailedClone(t *testing.T) {
	d := chainOf(t, 10, Options{NoSync: true})
	id := store.NewID()
	clone := func(tx *Tx, of int) error {
		img, err := tx.Image(chainID(of))
		if err != nil {
			return err
		}
		next, err := tx.NextLayer()
		l := Layer{ID: next, Image: id, Parent: img.Root, Size: 1 << 20, Overlap: 1 << 20}
		if err := errors.Join(err, tx.PutLayer(l), tx.PutImage(Image{ID: id, Name: "clone", Root: next, Head: next})); err != nil {
			return err
		}
		equal(t, of+1)(tx.Depth(id))
		return nil
	}
	errNo := errors.New("changed my mind")
	if err := d.Update(func(tx *Tx) error { return errors.Join(clone(tx, 10), errNo) }); !errors.Is(err, errNo) {
		t.Fatal(err)
	}
	view(t, d, func(tx *Tx) error {
		if _, err := tx.Depth(id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the depth of a clone that was given up: %v", err)
		}
		return nil
	})
	update(t, d, func(tx *Tx) error { return clone(tx, 4) })
	view(t, d, func(tx *Tx) error { equal(t, 5)(tx.Depth(id)); return nil })
}

// TestDepthWithinBounds: what is remembered is bounded.
func TestDepthWithinBounds(t *testing.T) {
	var d depths
	for i := range 3 * mostDepths {
		d.learn(1, []store.ID{chainID(i)}, 0)
	}
	if len(d.of) > mostDepths {
		t.Errorf("%d depths are remembered, want %d at most", len(d.of), mostDepths)
	}
}

// TestDepthKeptByMerge: a merge gives an image another root that is cloned from the same
// image. Nothing is forgotten then, and something is as soon as the owner changes.
func TestDepthKeptByMerge(t *testing.T) {
	d := chainOf(t, 10, Options{NoSync: true})
	ask := func() { view(t, d, func(tx *Tx) error { equal(t, 10)(tx.Depth(chainID(10))); return nil }) }
	ask()
	known := len(d.depths.of)
	update(t, d, func(tx *Tx) error {
		img, err := tx.Image(chainID(10))
		if err != nil {
			return err
		}
		root, err := tx.Layer(img.Root)
		if err != nil {
			return err
		}
		head, err := tx.Layer(img.Head)
		head.Parent, img.Root = root.Parent, img.Head
		return errors.Join(err, tx.PutLayer(head), tx.PutImage(img), tx.DeleteLayer(root.ID))
	})
	if len(d.depths.of) != known || known != 11 {
		t.Errorf("%d depths are remembered after a merge, %d before, want 11", len(d.depths.of), known)
	}
	ask()
	update(t, d, func(tx *Tx) error { // image 5's root goes to image 2
		img, err := tx.Image(chainID(5))
		if err != nil {
			return err
		}
		root, err := tx.Layer(img.Root)
		root.Image = chainID(2)
		return errors.Join(err, tx.PutLayer(root))
	})
	view(t, d, func(tx *Tx) error {
		path, err := tx.Ancestry(chainID(10))
		equal(t, len(path)-1)(tx.Depth(chainID(10)))
		if len(path) == 11 {
			t.Error("the ancestry is as before")
		}
		return err
	})
}
