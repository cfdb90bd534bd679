package meta

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// family puts an image with a sealed root, a head above it and a snapshot of the
// root.
func family(tx *Tx, id store.ID, base LayerID) error {
	return errors.Join(
		tx.PutLayer(Layer{ID: base, Image: id, Size: 1 << 20, Sealed: true, Data: 3}),
		tx.PutLayer(Layer{ID: base + 1, Image: id, Parent: base, Size: 1 << 20, Overlap: 1 << 20}),
		tx.PutImage(Image{ID: id, Name: "name-" + string(id), BlockSize: 4096, Root: base, Head: base + 1}),
		tx.PutSnapshot(Snapshot{ID: id + "-s", Image: id, Name: "snap", Layer: base}),
	)
}

func newFamily(t *testing.T) *DB {
	d := newDB(t)
	update(t, d, func(tx *Tx) error {
		first, err := tx.ReserveLayers(100)
		if err != nil {
			return err
		}
		return family(tx, "a", first)
	})
	return d
}

func TestRowsRoundTrip(t *testing.T) {
	d := newFamily(t)
	img := Image{ID: "a", Name: "Grüße", Created: time.Unix(1700000000, 5).UTC(), BlockSize: 512,
		Policy: store.Policy{Soft: 3, Hard: 9}, Digest: "d", Root: 1, Head: 2, Poison: "sync failed", Epoch: 7}
	snap := Snapshot{ID: "a-s", Image: "a", Name: "x y", Layer: 1, Created: img.Created, Digest: "e"}
	layer := Layer{ID: 1, Image: "a", Size: 1<<50 - 4096, Sealed: true, Data: 1 << 38, Merging: 2, Index: 9}
	intent := Intent{ID: 1, Kind: "merge", Layer: 1, Other: 2, Image: "a", Size: 4096}
	pub := Publication{store.Publication{ID: "a", Node: "n1", Epoch: 7, Token: "t", Access: store.AccessRead, Target: "a"}}
	update(t, d, func(tx *Tx) error {
		got, err := tx.PutIntent(Intent{Kind: "merge", Layer: 1, Other: 2, Image: "a", Size: 4096})
		if got != intent {
			t.Errorf("intent %+v, want %+v", got, intent)
		}
		return errors.Join(err, tx.PutImage(img), tx.PutSnapshot(snap), tx.PutLayer(layer),
			tx.PutPublication(pub), tx.PutJob("j1", []byte("row")), tx.PutMark("m", []byte{}))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, img)(tx.Image("a"))
		equal(t, img)(tx.ImageByName("Grüße"))
		equal(t, snap)(tx.Snapshot("a-s"))
		equal(t, snap)(tx.SnapshotByName("a", "x y"))
		equal(t, layer)(tx.Layer(1))
		equal(t, []Intent{intent})(tx.Intents())
		equal(t, []Publication{pub})(tx.Publications("a"))
		equal(t, []Publication{pub})(tx.Publications(""))
		equal(t, []Job{{ID: "j1", Row: []byte("row")}})(tx.Jobs())
		equal(t, []byte{})(tx.Mark("m"))
		return nil
	})
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.DeleteIntent(1), tx.DeletePublication("a", "n1"), tx.DeleteJob("j1"),
			tx.DeleteJob(""), tx.DeleteIntent(99), tx.DeletePublication("zz", "n"), tx.PutMark("m", nil))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, []Intent(nil))(tx.Intents())
		equal(t, []Publication(nil))(tx.Publications(""))
		equal(t, []Job(nil))(tx.Jobs())
		equal(t, []byte(nil))(tx.Mark("m"))
		return nil
	})
	update(t, d, func(tx *Tx) error {
		got, err := tx.PutIntent(Intent{Kind: "again"})
		if got.ID != 2 {
			t.Errorf("intent id %d was used before", got.ID)
		}
		return errors.Join(err, tx.DeleteIntent(2), tx.PutLayer(Layer{ID: 1, Image: "a", Size: 1 << 20, Sealed: true}))
	})
}

// equal compares what a reading method returned.
func equal[T any](t *testing.T, want T) func(T, error) {
	return func(got T, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v (%v), want %+v", got, err, want)
		}
	}
}

func TestMissingRows(t *testing.T) {
	d := newDB(t)
	for _, c := range []struct {
		name string
		err  func(*Tx) error
	}{
		{"image 7", func(tx *Tx) error { _, err := tx.Image("7"); return err }},
		{"image", func(tx *Tx) error { _, err := tx.Image(""); return err }},
		{`image "n"`, func(tx *Tx) error { _, err := tx.ImageByName("n"); return err }},
		{"image", func(tx *Tx) error { _, err := tx.ImageByName(""); return err }},
		{"image 7", func(tx *Tx) error { return tx.DeleteImage("7") }},
		{"image 7", func(tx *Tx) error { _, err := tx.Depth("7"); return err }},
		{"snapshot 7", func(tx *Tx) error { _, err := tx.Snapshot("7"); return err }},
		{"snapshot", func(tx *Tx) error { _, err := tx.Snapshot(""); return err }},
		{`snapshot "n" of image 7`, func(tx *Tx) error { _, err := tx.SnapshotByName("7", "n"); return err }},
		{"snapshot 7", func(tx *Tx) error { return tx.DeleteSnapshot("7") }},
		{"layer 7", func(tx *Tx) error { _, err := tx.Layer(7); return err }},
		{"layer 0", func(tx *Tx) error { _, err := tx.Layer(0); return err }},
		{"layer 7", func(tx *Tx) error { return tx.DeleteLayer(7) }},
		{"layer 7", func(tx *Tx) error { _, err := tx.Referenced(7); return err }},
		{"layer 7", func(tx *Tx) error { return tx.PutLayer(Layer{ID: 8, Image: "a", Parent: 7, Size: 4096}) }},
		{"layer 7", func(tx *Tx) error { return tx.PutSnapshot(Snapshot{ID: "s", Image: "a", Name: "n", Layer: 7}) }},
	} {
		err := d.Update(c.err)
		wantErr(t, err, store.ErrNotFound, c.name)
	}
}

func TestImpossibleRowsAreRefused(t *testing.T) {
	d := newFamily(t)
	long := string(make([]byte, maxKey+1))
	for i, put := range []func(*Tx) error{
		func(tx *Tx) error { return tx.PutImage(Image{Name: "n"}) },
		func(tx *Tx) error { return tx.PutImage(Image{ID: "i"}) },
		func(tx *Tx) error { return tx.PutImage(Image{ID: store.ID(long), Name: "n"}) },
		func(tx *Tx) error { return tx.PutSnapshot(Snapshot{ID: "s", Image: "a", Layer: 1}) },
		func(tx *Tx) error { return tx.PutSnapshot(Snapshot{Name: "s", Image: "a", Layer: 1}) },
		func(tx *Tx) error { return tx.PutLayer(Layer{Image: "a", Size: 1}) },
		func(tx *Tx) error { return tx.PutLayer(Layer{ID: 9, Size: 1}) },
		func(tx *Tx) error { return tx.PutLayer(Layer{ID: 9, Image: "a", Size: 1, Overlap: 2}) },
		func(tx *Tx) error { return tx.PutLayer(Layer{ID: 9, Image: "a", Size: 1, Overlap: -1}) },
		func(tx *Tx) error { return tx.PutLayer(Layer{ID: 1, Image: "a", Parent: 1}) },
		func(tx *Tx) error { return tx.PutPublication(Publication{store.Publication{ID: "a"}}) },
		func(tx *Tx) error { return tx.PutPublication(Publication{store.Publication{Node: "n"}}) },
		func(tx *Tx) error { return tx.PutJob("", nil) },
		func(tx *Tx) error { return tx.PutMark("", []byte("x")) },
		func(tx *Tx) error { _, err := tx.Mark(""); return err },
		func(tx *Tx) error { _, err := tx.ReserveLayers(0); return err },
		func(tx *Tx) error { return tx.SetReservedFrom(1000) },
		func(tx *Tx) error { return tx.SetReservedFrom(0) },
	} {
		if err := d.Update(put); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("case %d: error %v, want ErrInvalid", i, err)
		}
	}
}

func TestNameIsBoundWhileLive(t *testing.T) {
	d := newFamily(t)
	twin := Image{ID: "b", Name: "name-a", Root: 3, Head: 3}
	err := d.Update(func(tx *Tx) error {
		if err := tx.PutLayer(Layer{ID: 3, Image: "b", Size: 4096}); err != nil {
			return err
		}
		return tx.PutImage(twin)
	})
	wantErr(t, err, store.ErrConflict, "name-a")
	update(t, d, func(tx *Tx) error {
		img, err := tx.Image("a")
		if err != nil {
			return err
		}
		img.Removed, img.Head = true, 0
		return errors.Join(tx.PutImage(img), tx.DeleteLayer(2), tx.PutLayer(Layer{ID: 3, Image: "b", Size: 4096}), tx.PutImage(twin))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, twin)(tx.ImageByName("name-a"))
		a, err := tx.Image("a")
		if a.Name != "name-a" || !a.Removed {
			t.Errorf("tombstone %+v lost its name", a)
		}
		return err
	})
	update(t, d, func(tx *Tx) error { twin.Name = "other"; return tx.PutImage(twin) })
	err = d.View(func(tx *Tx) error { _, err := tx.ImageByName("name-a"); return err })
	wantErr(t, err, store.ErrNotFound)
}

func TestSnapshotIndexesFollow(t *testing.T) {
	d := newFamily(t)
	wantErr(t, d.Update(func(tx *Tx) error {
		return tx.PutSnapshot(Snapshot{ID: "other", Image: "a", Name: "snap", Layer: 1})
	}), store.ErrConflict, "snap")
	update(t, d, func(tx *Tx) error {
		return errors.Join(
			tx.PutLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: 1 << 20, Sealed: true}),
			tx.PutLayer(Layer{ID: 3, Image: "a", Parent: 2, Size: 1 << 20}),
			tx.PutImage(Image{ID: "a", Name: "name-a", Root: 1, Head: 3}),
			tx.PutSnapshot(Snapshot{ID: "z", Image: "a", Name: "early", Layer: 2}),
			tx.PutSnapshot(Snapshot{ID: "a-s", Image: "a", Name: "snap", Layer: 2}))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, []string{"early", "snap"})(names(tx.SnapshotsOf("a")))
		equal(t, []string{"snap", "early"})(names(tx.SnapshotsOn(2)))
		equal(t, []string(nil))(names(tx.SnapshotsOn(1)))
		equal(t, 2)(tx.SnapshotCount("a"))
		equal(t, 0)(tx.SnapshotCount("aa"))
		equal(t, false)(tx.Referenced(1))
		equal(t, true)(tx.Referenced(2))
		equal(t, true)(tx.Referenced(3))
		return nil
	})
	update(t, d, func(tx *Tx) error { return errors.Join(tx.DeleteSnapshot("z"), tx.DeleteSnapshot("a-s")) })
	view(t, d, func(tx *Tx) error {
		equal(t, false)(tx.Referenced(2))
		equal(t, 0)(tx.SnapshotCount("a"))
		return nil
	})
}

func names(s []Snapshot, err error) (out []string, _ error) {
	for _, x := range s {
		out = append(out, x.Name)
	}
	return out, err
}

func TestLayersInUseStay(t *testing.T) {
	d := newFamily(t)
	for _, id := range []LayerID{1, 2} {
		wantErr(t, d.Update(func(tx *Tx) error { return tx.DeleteLayer(id) }), store.ErrInUse, fmt.Sprint(id))
	}
	wantErr(t, d.Update(func(tx *Tx) error { return tx.DeleteImage("a") }), store.ErrInUse, "image a")
	err := d.Update(func(tx *Tx) error {
		return errors.Join(tx.DeleteSnapshot("a-s"), tx.DeleteLayer(1))
	})
	wantErr(t, err, store.ErrInUse) // its child is left
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutImage(Image{ID: "a", Name: "name-a", Root: 1, Removed: true}),
			tx.DeleteLayer(2), tx.DeleteSnapshot("a-s"), tx.DeleteLayer(1), tx.DeleteImage("a"))
	})
	view(t, d, func(tx *Tx) error {
		i, s, l, err := tx.Counts()
		if i != 0 || s != 0 || l != 0 {
			t.Errorf("counts %d %d %d after everything is gone", i, s, l)
		}
		return err
	})
}

func TestMergingLayerTakesNoReference(t *testing.T) {
	d := newFamily(t)
	update(t, d, func(tx *Tx) error {
		return tx.PutLayer(Layer{ID: 1, Image: "a", Size: 1 << 20, Sealed: true, Merging: 2})
	})
	wantErr(t, d.Update(func(tx *Tx) error {
		return tx.PutLayer(Layer{ID: 4, Image: "b", Parent: 1, Size: 4096})
	}), store.ErrBusy, "layer 1")
	wantErr(t, d.Update(func(tx *Tx) error {
		return tx.PutSnapshot(Snapshot{ID: "n", Image: "a", Name: "new", Layer: 1})
	}), store.ErrBusy, "layer 1")
	update(t, d, func(tx *Tx) error { // what hangs there already may be rewritten
		return errors.Join(tx.PutLayer(Layer{ID: 2, Image: "a", Parent: 1, Size: 4096}),
			tx.PutSnapshot(Snapshot{ID: "a-s", Image: "a", Name: "renamed", Layer: 1}))
	})
}

func TestChildIndexFollowsParent(t *testing.T) {
	d := newFamily(t)
	update(t, d, func(tx *Tx) error {
		errs := []error{}
		for i := range 10 {
			id := store.ID(fmt.Sprintf("c%d", i))
			layer := LayerID(10 + i)
			errs = append(errs, tx.PutLayer(Layer{ID: layer, Image: id, Parent: 1, Size: 4096, Overlap: 4096}),
				tx.PutImage(Image{ID: id, Name: string(id), Root: layer, Head: layer}))
		}
		return errors.Join(errs...)
	})
	view(t, d, func(tx *Tx) error {
		equal(t, []LayerID{2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19})(tx.Children(1))
		equal(t, 2)(tx.ChildCount(1, 2))
		equal(t, 11)(tx.ChildCount(1, 100))
		equal(t, 0)(tx.ChildCount(1, 0))
		equal(t, 1)(tx.Depth("c3"))
		equal(t, []store.ID{"c3", "a"})(tx.Ancestry("c3"))
		equal(t, []LayerID{1, 2})(tx.LayersOf("a"))
		return nil
	})
	update(t, d, func(tx *Tx) error { return tx.PutLayer(Layer{ID: 13, Image: "c3", Size: 4096}) })
	view(t, d, func(tx *Tx) error {
		equal(t, 10)(tx.ChildCount(1, 100))
		equal(t, 0)(tx.Depth("c3"))
		return nil
	})
}

func TestWalkImagesInNameOrderRemovedLast(t *testing.T) {
	d := newDB(t)
	update(t, d, func(tx *Tx) error {
		if _, err := tx.ReserveLayers(10); err != nil {
			return err
		}
		for i, name := range []string{"zebra", "ant", "gone", "bee"} {
			id := LayerID(i + 1)
			img := Image{ID: store.ID(fmt.Sprint(i)), Name: name, Root: id, Head: id}
			l := Layer{ID: id, Image: img.ID, Size: 4096}
			if name == "gone" {
				img.Removed, img.Head, l.Sealed = true, 0, true
			}
			if err := errors.Join(tx.PutLayer(l), tx.PutImage(img)); err != nil {
				return err
			}
		}
		return nil
	})
	var seen []string
	view(t, d, func(tx *Tx) error {
		return tx.WalkImages(func(img Image) error { seen = append(seen, img.Name); return nil })
	})
	if want := []string{"ant", "bee", "zebra", "gone"}; !slices.Equal(seen, want) {
		t.Errorf("walked %v, want %v", seen, want)
	}
	stop := errors.New("stop")
	if err := d.View(func(tx *Tx) error { return tx.WalkImages(func(Image) error { return stop }) }); !errors.Is(err, stop) {
		t.Errorf("error %v, want the function's own", err)
	}
	view(t, d, func(tx *Tx) error {
		i, _, l, err := tx.Counts()
		if i != 3 || l != 4 {
			t.Errorf("counts %d images, %d layers; want 3 live, 4", i, l)
		}
		return err
	})
}

func TestReservation(t *testing.T) {
	path := newFile(t)
	d, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	window := func(from, to LayerID) {
		t.Helper()
		view(t, d, func(tx *Tx) error {
			f, l, err := tx.Reserved()
			if f != from || l != to {
				t.Errorf("window %d to %d, want %d to %d", f, l, from, to)
			}
			return err
		})
	}
	window(1, 1)
	update(t, d, func(tx *Tx) error { equal[LayerID](t, 1)(tx.ReserveLayers(64)); return nil })
	window(1, 65)
	_ = d.Update(func(tx *Tx) error { equal[LayerID](t, 65)(tx.NextLayer()); return errors.New("roll back") })
	window(1, 65)
	update(t, d, func(tx *Tx) error { equal[LayerID](t, 65)(tx.NextLayer()); return tx.SetReservedFrom(60) })
	window(60, 66)
	d.Abandon()
	if d, err = Open(path, Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	window(60, 66)
	update(t, d, func(tx *Tx) error { return tx.SetReservedFrom(66) })
	window(66, 66)
}
