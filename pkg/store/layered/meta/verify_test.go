package meta

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// breakage breaks one invariant below the checks of the methods.
type breakage struct {
	want     string // in the text of the problem
	harmless bool
	sabotage func(*Tx) error
}

const mb = 1 << 20

func rewriteLayer(l Layer) func(*Tx) error {
	return func(tx *Tx) error { return tx.putRow(bLayers, layerKey(l.ID), encodeLayer(l)) }
}

func rewriteImage(change func(*Image)) func(*Tx) error {
	return func(tx *Tx) error {
		img, err := tx.Image("a")
		change(&img)
		return errors.Join(err, tx.putJSON(bImages, []byte("a"), img), tx.put(bRoots, []byte("a"), layerKey(img.Root)))
	}
}

func brokenImages() []breakage {
	return []breakage{
		{"does not match its checksum", false, func(tx *Tx) error { return tx.put(bMarks, []byte("m"), []byte("12345678")) }},
		{"does not match its checksum", false, func(tx *Tx) error { return tx.put(bImages, []byte("a"), []byte("12345678")) }},
		{"is malformed", false, func(tx *Tx) error { return tx.putRow(bLayers, layerKey(1), []byte("short")) }},
		{"end of JSON input", false, func(tx *Tx) error { return tx.putRow(bSnapshots, []byte("a-s"), []byte("{")) }},
		{"says it is image", false, rewriteImage(func(i *Image) { i.ID = "b" })},
		{"head layer 77 does not exist", false, rewriteImage(func(i *Image) { i.Head = 77 })},
		{"has no head layer", false, rewriteImage(func(i *Image) { i.Head = 0 })},
		{"head layer 1 is sealed", false, rewriteImage(func(i *Image) { i.Head = 1 })},
		{"is removed and has head", false, rewriteImage(func(i *Image) { i.Removed = true })},
		{"has no root layer", false, rewriteImage(func(i *Image) { i.Root = 0 })},
		{"root layer 77 does not exist", false, rewriteImage(func(i *Image) { i.Root = 77 })},
		{"root layer 2 lies on layer 1 of the same image", false, rewriteImage(func(i *Image) { i.Root = 2 })},
		{`entry "name-a" belongs to no row`, false, rewriteImage(func(i *Image) { i.Name = "x" })},
		{"no layer of it is left", true, func(tx *Tx) error { return tx.PutImage(Image{ID: "t", Name: "t", Removed: true}) }},
	}
}

func brokenLayers() []breakage {
	return []breakage{
		{"belongs to image b", false, rewriteLayer(Layer{ID: 2, Image: "b", Parent: 1, Size: mb})},
		{"image b does not exist", false, rewriteLayer(Layer{ID: 2, Image: "b", Parent: 1, Size: mb})},
		{"parent layer 9 does not exist", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 9, Size: mb})},
		{"is not sealed and not the head", false, rewriteLayer(Layer{ID: 1, Image: "a", Size: mb})},
		{"parent layer 1 is not sealed", false, rewriteLayer(Layer{ID: 1, Image: "a", Size: mb})},
		{"counts 4 data blocks", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: mb, Data: 4})},
		{"exceeds its size", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: mb, Overlap: 2 * mb})},
		{"exceeds the size 1048576 of parent", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: 2 * mb, Overlap: 2 * mb})},
		{"and no parent", false, rewriteLayer(Layer{ID: 1, Image: "a", Size: mb, Overlap: mb, Sealed: true})},
		{"goes round in a circle", false, rewriteLayer(Layer{ID: 1, Image: "a", Parent: 2, Size: mb, Sealed: true})},
		{"which does not exist", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: mb, Merging: 9})},
		{"neither its parent nor its child", false, rewriteLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: mb, Merging: 2})},
		{"never handed out", false, rewriteLayer(Layer{ID: 500, Image: "a", Parent: 1, Size: mb, Sealed: true})},
		{"is not the root of image a", false, func(tx *Tx) error {
			return errors.Join(tx.PutLayer(Layer{ID: 3, Image: "b", Size: mb, Sealed: true}), tx.PutImage(Image{ID: "b", Name: "b", Root: 3, Removed: true}),
				tx.PutLayer(Layer{ID: 4, Image: "a", Parent: 3, Size: mb, Sealed: true}))
		}},
		{"layer 2 is not sealed", false, func(tx *Tx) error {
			return tx.PutSnapshot(Snapshot{ID: "a-s", Image: "a", Name: "snap", Layer: 2})
		}},
		{"image gone does not exist", false, func(tx *Tx) error {
			return tx.PutSnapshot(Snapshot{ID: "x", Image: "gone", Name: "x", Layer: 1})
		}},
	}
}

func brokenIndexes() []breakage {
	return []breakage{
		{"is missing", false, func(tx *Tx) error { return tx.del(bChildren, childKey(1, 2)) }},
		{"is missing", false, func(tx *Tx) error { return tx.del(bNames, []byte("name-a")) }},
		{"is missing", false, func(tx *Tx) error { return tx.del(bSnapLayers, snapLayerKey(1, "a-s")) }},
		{"is missing", false, func(tx *Tx) error { return tx.del(bOwnLayers, ownLayerKey("a", 2)) }},
		{"belongs to no row", false, func(tx *Tx) error { return tx.put(bChildren, childKey(2, 1), []byte{}) }},
		{"the row says", false, func(tx *Tx) error { return tx.put(bRoots, []byte("a"), layerKey(2)) }},
		{"counts 2 images", false, func(tx *Tx) error { _, err := tx.addCounter(bNames, 1); return err }},
		{"no such image or snapshot", false, func(tx *Tx) error {
			return tx.PutPublication(Publication{store.Publication{ID: "b", Node: "n"}})
		}},
		{"never handed out, the last was 0", false, func(tx *Tx) error {
			return tx.PutPublication(Publication{store.Publication{ID: "a", Node: "n", Epoch: 3}})
		}},
		{"its row says", false, func(tx *Tx) error {
			return tx.putJSON(bPubs, scopedKey("a", "n"), Publication{store.Publication{ID: "a", Node: "m"}})
		}},
		{"names layer 9", true, func(tx *Tx) error { _, err := tx.PutIntent(Intent{Layer: 9}); return err }},
		{"names image b", true, func(tx *Tx) error { _, err := tx.PutIntent(Intent{Image: "b"}); return err }},
		{"the last id given is 0", false, func(tx *Tx) error { _, err := tx.PutIntent(Intent{ID: 5}); return err }},
	}
}

// TestVerifyFinds breaks one invariant at a time in a healthy catalogue.
func TestVerifyFinds(t *testing.T) {
	for _, c := range slices.Concat(brokenImages(), brokenLayers(), brokenIndexes()) {
		t.Run(c.want, func(t *testing.T) {
			d, err := Open(newFile(t), Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			update(t, d, func(tx *Tx) error {
				_, err := tx.ReserveLayers(100)
				return errors.Join(err, family(tx, "a", 1))
			})
			mustVerify(t, d)
			update(t, d, c.sabotage)
			var found []store.Problem
			view(t, d, func(tx *Tx) error { found = tx.Verify(); return nil })
			for _, p := range found {
				if strings.Contains(p.Text, c.want) && p.Harmless == c.harmless {
					return
				}
			}
			t.Errorf("found %+v, want %q, harmless %v", found, c.want, c.harmless)
		})
	}
}

// TestLookupsNoticeBrokenIndexes: what a lookup can tell, it tells without Verify.
func TestLookupsNoticeBrokenIndexes(t *testing.T) {
	d, err := Open(newFile(t), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	update(t, d, func(tx *Tx) error {
		return errors.Join(family(tx, "a", 1), family(tx, "b", 3),
			tx.put(bNames, []byte("name-a"), []byte("b")), tx.put(bNames, []byte("ghost"), []byte("g")),
			tx.put(bSnapNames, scopedKey("a", "snap"), []byte("b-s")), tx.put(bSnapLayers, snapLayerKey(1, "none"), []byte{}),
			tx.put(bRoots, []byte("a"), layerKey(9)), tx.put(bOwnLayers, append(scopedPrefix("a"), 1), []byte{}))
	})
	for name, read := range map[string]func(*Tx) error{
		"name of another image": func(tx *Tx) error { _, err := tx.ImageByName("name-a"); return err },
		"name of no image":      func(tx *Tx) error { _, err := tx.ImageByName("ghost"); return err },
		"name of another snap":  func(tx *Tx) error { _, err := tx.SnapshotByName("a", "snap"); return err },
		"layer of no snapshot":  func(tx *Tx) error { _, err := tx.SnapshotsOn(1); return err },
		"root that is gone":     func(tx *Tx) error { _, err := tx.Depth("a"); return err },
		"key cut short":         func(tx *Tx) error { _, err := tx.LayersOf("a"); return err },
	} {
		t.Run(name, func(t *testing.T) { wantErr(t, d.View(read), store.ErrCorrupt) })
	}
	update(t, d, func(tx *Tx) error { // a circle of two images
		return errors.Join(tx.put(bRoots, []byte("a"), layerKey(1)),
			tx.PutLayer(Layer{ID: 1, Image: "a", Parent: 3, Size: 1 << 20, Sealed: true}),
			tx.PutLayer(Layer{ID: 3, Image: "b", Parent: 1, Size: 1 << 20, Sealed: true}))
	})
	wantErr(t, d.View(func(tx *Tx) error { _, err := tx.Depth("a"); return err }), store.ErrCorrupt)
}
