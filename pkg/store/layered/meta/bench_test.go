package meta

import (
	"errors"
	"fmt"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// chainOf makes a chain of images, each a clone of a snapshot of the one before,
// among many bystanders.
func chainOf(tb testing.TB, depth int, o Options) *DB {
	tb.Helper()
	d, err := Open(newFile(tb), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	update(tb, d, func(tx *Tx) error {
		next, err := tx.ReserveLayers(4 * (depth + 1001))
		if err != nil {
			return err
		}
		below := LayerID(0)
		for i := range depth + 1 {
			id := store.ID(fmt.Sprintf("%036d", i))
			root := Layer{ID: next, Image: id, Parent: below, Size: 1 << 20, Overlap: 1 << 20, Sealed: true}
			if below == 0 {
				root.Overlap = 0
			}
			if err := errors.Join(tx.PutLayer(root),
				tx.PutLayer(Layer{ID: next + 1, Image: id, Parent: next, Size: 1 << 20, Overlap: 1 << 20}),
				tx.PutImage(Image{ID: id, Name: fmt.Sprint("chain", i), Root: next, Head: next + 1})); err != nil {
				return err
			}
			below, next = next, next+2
		}
		for i := range 1000 {
			if err := family(tx, store.ID(fmt.Sprintf("b%035d", i)), next); err != nil {
				return err
			}
			next += 2
		}
		return nil
	})
	return d
}

func BenchmarkDepth(b *testing.B) {
	for _, depth := range []int{0, 1, 8, 64} {
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) {
			d := chainOf(b, depth, Options{NoSync: true})
			id := store.ID(fmt.Sprintf("%036d", depth))
			view(b, d, func(tx *Tx) error {
				for b.Loop() {
					if n, err := tx.Depth(id); n != depth || err != nil {
						return fmt.Errorf("depth %d: %w", n, err)
					}
				}
				return nil
			})
		})
	}
}

// BenchmarkClone is the catalogue's share of a clone: walk, layer, image, commit.
func BenchmarkClone(b *testing.B) {
	for _, depth := range []int{1, 64} {
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) {
			d := chainOf(b, depth, Options{})
			source := store.ID(fmt.Sprintf("%036d", depth))
			before := d.Syncs()
			n := 0
			for b.Loop() {
				n++
				update(b, d, func(tx *Tx) error {
					if _, err := tx.Depth(source); err != nil {
						return err
					}
					img, err := tx.Image(source)
					if err != nil {
						return err
					}
					id, err := tx.NextLayer()
					l := Layer{ID: id, Image: store.NewID(), Parent: img.Root, Size: 1 << 20, Overlap: 1 << 20}
					return errors.Join(err, tx.PutLayer(l), tx.PutImage(Image{ID: l.Image, Name: string(l.Image), Root: id, Head: id}))
				})
			}
			b.ReportMetric(float64(d.Syncs()-before)/float64(n), "syncs/op")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	d := chainOf(b, 1, Options{NoSync: true})
	path := d.path
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d, err := Open(path, Options{NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
