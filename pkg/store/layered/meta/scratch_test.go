package meta

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// scratchHead puts a private head of the snapshot "a-s" and its publication.
func scratchHead(tx *Tx) error {
	pub := store.Publication{ID: "a-s", Node: "n", Access: store.AccessScratch, Target: "h", Epoch: 1, Token: "t"}
	return errors.Join(
		tx.PutLayer(Layer{ID: 3, Image: "h", Parent: 1, Size: 1 << 20, Overlap: 1 << 20}),
		tx.PutImage(Image{ID: "h", Name: "name-a@snap", Origin: "a-s", Root: 3, Head: 3, Scratch: true}),
		tx.PutPublication(Publication{pub}),
	)
}

// A private head has no place among the names and is not counted, but nothing that
// looks at everything misses it; it can become a tombstone and go.
func TestScratchHasNoName(t *testing.T) {
	d := newFamily(t)
	update(t, d, scratchHead)
	walked := func() (names []string) {
		view(t, d, func(tx *Tx) error {
			return tx.WalkImages(func(i Image) error { names = append(names, i.Name); return nil })
		})
		return names
	}
	view(t, d, func(tx *Tx) error {
		images, snapshots, layers, err := tx.Counts()
		if images != 1 || snapshots != 1 || layers != 3 {
			t.Errorf("counts are %d, %d, %d, want 1, 1, 3", images, snapshots, layers)
		}
		if _, err := tx.ImageByName("name-a@snap"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("found by its name: %v", err)
		}
		equal(t, 1)(tx.Depth("h"))
		equal(t, []store.Problem(nil))(tx.Verify(), nil)
		return err
	})
	if got := walked(); !slices.Equal(got, []string{"name-a", "name-a@snap"}) {
		t.Errorf("walked %v", got)
	}
	// Another image may be called the same, and one more head may be.
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutLayer(Layer{ID: 4, Image: "b", Size: 4096}), tx.PutImage(Image{ID: "b", Name: "name-a@snap", Root: 4, Head: 4}))
	})
	update(t, d, func(tx *Tx) error {
		img, err := tx.Image("h")
		img.Removed, img.Head = true, 0
		return errors.Join(err, tx.DeletePublication("a-s", "n"), tx.PutImage(img))
	})
	update(t, d, func(tx *Tx) error { return errors.Join(tx.DeleteLayer(3), tx.DeleteImage("h")) })
	view(t, d, func(tx *Tx) error {
		equal(t, []store.Problem(nil))(tx.Verify(), nil)
		_, err := tx.ImageByName("name-a@snap")
		return err
	})
	if got := walked(); len(got) != 2 {
		t.Errorf("walked %v", got)
	}
}

func TestVerifyFindsLostHeads(t *testing.T) {
	for want, sabotage := range map[string]func(*Tx) error{
		"is the private head of no publication": func(tx *Tx) error { return tx.DeletePublication("a-s", "n") },
		"its private head h is not there": func(tx *Tx) error {
			return errors.Join(tx.DeletePublication("a-s", "n"), tx.PutPublication(Publication{store.Publication{
				ID: "a", Node: "n", Access: store.AccessScratch, Target: "h"}}))
		},
		"gives h": func(tx *Tx) error {
			return tx.PutPublication(Publication{store.Publication{ID: "a-s", Node: "m", Access: store.AccessRead, Target: "h"}})
		},
	} {
		d, err := Open(newFile(t), Options{NoSync: true}) // newDB would want it whole in the end
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		update(t, d, func(tx *Tx) error {
			first, err := tx.ReserveLayers(100)
			return errors.Join(err, family(tx, "a", first), scratchHead(tx), sabotage(tx))
		})
		view(t, d, func(tx *Tx) error {
			found := tx.Verify()
			if !slices.ContainsFunc(found, func(p store.Problem) bool { return strings.Contains(p.Text, want) && !p.Harmless }) {
				t.Errorf("found %+v, want %q", found, want)
			}
			return nil
		})
	}
}

// Rows from before there were kinds of access are understood.
func TestPublicationsOfBefore(t *testing.T) {
	d := newFamily(t)
	update(t, d, func(tx *Tx) error {
		type row struct {
			ID       store.ID `json:"id"`
			Node     string   `json:"node"`
			ReadOnly bool     `json:"readOnly,omitempty"`
			Token    string   `json:"token"`
		}
		return errors.Join(
			tx.putJSON(bPubs, scopedKey("a", "w"), row{"a", "w", false, "t"}),
			tx.putJSON(bPubs, scopedKey("a-s", "r"), row{"a-s", "r", true, "u"}))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, []Publication{
			{store.Publication{ID: "a", Node: "w", Access: store.AccessWrite, Target: "a", Token: "t"}},
			{store.Publication{ID: "a-s", Node: "r", Access: store.AccessRead, Target: "a-s", Token: "u"}},
		})(tx.Publications(""))
		equal(t, []store.Problem(nil))(tx.Verify(), nil)
		return nil
	})
}

// Notes lie beside the engine's marks and are not mistaken for them.
func TestNotes(t *testing.T) {
	d := newDB(t)
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutMark("ack", []byte("engine")), tx.PutNote("b", "2"), tx.PutNote("ack", "user"), tx.PutNote("b/c", "3"))
	})
	view(t, d, func(tx *Tx) error {
		equal(t, []byte("engine"))(tx.Mark("ack"))
		for prefix, want := range map[string]string{"": "ack=user b=2 b/c=3 ", "b": "b=2 b/c=3 ", "b/": "b/c=3 ", "x": ""} {
			got := ""
			if err := tx.Notes(prefix, func(k, v string) error { got += k + "=" + v + " "; return nil }); err != nil || got != want {
				t.Errorf("below %q there are %q, %v, want %q", prefix, got, err, want)
			}
		}
		return nil
	})
	update(t, d, func(tx *Tx) error { return tx.PutNote("b", "") })
	view(t, d, func(tx *Tx) error {
		if v, ok, err := tx.Note("b"); ok || v != "" || err != nil {
			t.Errorf("a deleted note is %q, %v, %v", v, ok, err)
		}
		v, ok, err := tx.Note("ack")
		if v != "user" || !ok {
			t.Errorf("another note is %q, %v", v, ok)
		}
		return err
	})
}
