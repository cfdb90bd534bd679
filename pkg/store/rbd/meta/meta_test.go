package meta_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// memory is a log that several catalogues share.
type memory struct {
	gen     uint64
	rows    map[string][]byte
	changed [][]string // by generation
	forget  bool       // what changed when
	fail    error      // of the next commit, after it
}

func (m *memory) Load(context.Context) (uint64, map[string][]byte, error) {
	return m.gen, maps.Clone(m.rows), nil
}

func (m *memory) Since(_ context.Context, gen uint64) (uint64, map[string][]byte, error) {
	if m.forget && gen != m.gen {
		return 0, nil, meta.ErrStale
	}
	rows := map[string][]byte{}
	for _, keys := range m.changed[gen:] {
		for _, k := range keys {
			rows[k] = m.rows[k]
		}
	}
	return m.gen, rows, nil
}

func (m *memory) Commit(_ context.Context, gen uint64, rows map[string][]byte) error {
	if gen != m.gen {
		return meta.ErrStale
	}
	for k, raw := range rows {
		if raw == nil {
			delete(m.rows, k)
		} else {
			m.rows[k] = raw
		}
	}
	m.gen++
	m.changed = append(m.changed, slices.Collect(maps.Keys(rows)))
	err := m.fail
	m.fail = nil
	return err
}

// desk is two catalogues over one log.
type desk struct {
	*testing.T
	log  *memory
	a, b *meta.Catalogue
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, log: &memory{rows: map[string][]byte{}}}
	d.a, d.b = d.open(), d.open()
	return d
}

func (d *desk) open() *meta.Catalogue {
	d.Helper()
	c, err := meta.Open(d.Context(), d.log)
	if err != nil {
		d.Fatal(err)
	}
	return c
}

func (d *desk) update(c *meta.Catalogue, fn func(*meta.Tx)) {
	d.Helper()
	if _, err := c.Update(d.Context(), func(t *meta.Tx) error { fn(t); return nil }); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) view(c *meta.Catalogue, fn func(*meta.State)) {
	d.Helper()
	if err := c.View(d.Context(), func(s *meta.State) error { fn(s); return nil }); err != nil {
		d.Fatal(err)
	}
}

// TestTwoCatalogues: a change is decided on the newest state, whoever made it, and seen by
// all.
func TestTwoCatalogues(t *testing.T) {
	for _, forget := range []bool{false, true} {
		d := newDesk(t)
		d.log.forget = forget
		d.update(d.a, func(t *meta.Tx) { t.SetNote("count", "x") })
		calls := 0
		d.update(d.b, func(t *meta.Tx) { calls++; t.SetNote("count", t.Notes["count"]+"x") })
		if calls != 2 {
			t.Errorf("a change of an old state was decided %d times, want again once", calls)
		}
		d.update(d.a, func(t *meta.Tx) { t.SetNote("other\x00\xff", "y"); t.SetNote("count", t.Notes["count"]+"x") })
		for _, c := range []*meta.Catalogue{d.a, d.b, d.open()} {
			d.view(c, func(s *meta.State) {
				if s.Notes["count"] != "xxx" || s.Notes["other\x00\xff"] != "y" {
					t.Errorf("the notes are %q", s.Notes)
				}
			})
		}
	}
}

// TestRefusedChange: a change that is refused, or cannot be written, leaves nothing, and
// one whose fate is unknown is found out at the next look.
func TestRefusedChange(t *testing.T) {
	d := newDesk(t)
	d.update(d.a, func(t *meta.Tx) { t.PutImage(meta.Image{ID: "p", Name: "p"}) })
	no := errors.New("no")
	_, err := d.a.Update(t.Context(), func(t *meta.Tx) error {
		t.PutImage(meta.Image{ID: "c", Name: "c", Parent: &meta.Link{Image: "p"}})
		t.DropImage("p")
		return no
	})
	if !errors.Is(err, no) || len(d.log.rows) != 1 {
		t.Errorf("a refused change answers %v and leaves %d rows", err, len(d.log.rows))
	}
	d.view(d.a, func(s *meta.State) {
		if i, ok := s.Named("p"); !ok || i.ID != "p" || len(s.Images) != 1 || len(s.Kids("p")) != 0 {
			t.Errorf("a refused change leaves %+v", s.Images)
		}
	})
	d.log.fail = errors.New("the answer was lost")
	if _, err := d.a.Update(t.Context(), func(t *meta.Tx) error { t.SetNote("k", "v"); return nil }); err == nil {
		t.Error("a lost answer is no error")
	}
	d.view(d.a, func(s *meta.State) {
		if s.Notes["k"] != "v" {
			t.Error("what was written is not seen")
		}
	})
}

// TestDamagedRow: a row that cannot be read is told, not left out.
func TestDamagedRow(t *testing.T) {
	log := &memory{rows: map[string][]byte{"image/x": []byte("{")}}
	if _, err := meta.Open(t.Context(), log); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "image/x") {
		t.Errorf("open answers %v", err)
	}
	log = &memory{rows: map[string][]byte{meta.MetaKey: []byte(`{"uuid":"u","version":99}`)}}
	if _, err := meta.Open(t.Context(), log); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("open of a newer version answers %v", err)
	}
}

// family makes an image with a user's snapshot and an internal one, each with a clone.
func (d *desk) family() {
	d.update(d.a, func(t *meta.Tx) {
		t.PutMember(meta.Member{Name: "m"})
		t.PutImage(meta.Image{ID: "base", Name: "base", Size: 10})
		t.PutSnapshot(meta.Snapshot{ID: "user", Image: "base", Name: "s", Seq: 1})
		t.PutSnapshot(meta.Snapshot{ID: "internal", Image: "base", Internal: true, Seq: 2})
		t.PutImage(meta.Image{ID: "one", Name: "one", Overlap: 5, Parent: &meta.Link{Image: "base", Snapshot: "user", Name: "s"}})
		t.PutImage(meta.Image{ID: "two", Name: "two", Overlap: 5, Parent: &meta.Link{Image: "base", Snapshot: "internal"}})
		t.PutSnapshot(meta.Snapshot{ID: "inner", Image: "two", Name: "inner", Overlap: 5, Seq: 1})
	})
}

func (d *desk) garbage(id store.ID, snaps string, whole, trash bool, when string) {
	d.Helper()
	d.view(d.a, func(s *meta.State) {
		g := s.Garbage(id)
		var names []string
		for _, n := range g.Snapshots {
			names = append(names, string(n.ID))
		}
		if got := strings.Join(names, " "); got != snaps || g.Whole != whole || g.Trash != trash || g.Nothing() != (snaps == "" && !whole && !trash) {
			d.Errorf("%s the garbage of %s is %q, whole %v, trash %v", when, id, got, g.Whole, g.Trash)
		}
	})
}

// TestGarbage: what something reads stays, what users see stays where they see it.
func TestGarbage(t *testing.T) {
	d := newDesk(t)
	d.family()
	d.garbage("base", "", false, false, "at first")
	hide := func(id store.ID) {
		d.update(d.a, func(t *meta.Tx) {
			if n, ok := t.Snaps[id]; ok {
				n.Phase = meta.Removed
				t.PutSnapshot(n)
				return
			}
			i := t.Images[id]
			i.Phase = meta.Removed
			t.PutImage(i)
		})
	}
	hide("base")
	d.garbage("base", "", false, false, "with a snapshot that is seen and cloned, the image removed,")
	hide("user")
	d.garbage("base", "", false, true, "with all removed but clones")
	d.update(d.a, func(t *meta.Tx) { t.DropImage("one") })
	d.garbage("base", "user", false, true, "with one clone gone")
	d.update(d.a, func(t *meta.Tx) { t.Cut("two") })
	d.garbage("base", "user", false, true, "with the last link cut and not yet seen")
	d.update(d.a, func(t *meta.Tx) {
		for id := range t.Cuts {
			if got := t.Seen(id, "stranger"); got != "" {
				d.Errorf("a cut that a stranger saw lets %q go", got)
			}
			if got := t.Seen(id, "m"); got != "base" {
				d.Errorf("a cut that all saw lets %q go", got)
			}
		}
	})
	d.garbage("base", "user internal", true, false, "with the cut seen by all")
	d.view(d.a, func(s *meta.State) {
		two := s.Info(meta.Object{Image: s.Images["two"]})
		if two.Depth != 0 || two.Overlap != 0 || two.Parent != "" || s.Snaps["inner"].Overlap != 0 {
			t.Errorf("flattened, it is %+v", two)
		}
	})
}

// TestMakingIsHidden: what is being made has a name and keeps its parent, and nobody sees it.
func TestMakingIsHidden(t *testing.T) {
	d := newDesk(t)
	d.update(d.a, func(t *meta.Tx) {
		t.PutImage(meta.Image{ID: "base", Name: "base", Phase: meta.Removed})
		t.PutSnapshot(meta.Snapshot{ID: "s", Image: "base", Name: "s", Phase: meta.Removed, Seq: 1})
		t.PutImage(meta.Image{ID: "new", Name: "new", Phase: meta.Making, Parent: &meta.Link{Image: "base", Snapshot: "s"}})
	})
	d.garbage("base", "", false, true, "while a clone is being made")
	d.garbage("new", "", false, false, "while it is being made")
	d.view(d.a, func(s *meta.State) {
		if _, named := s.Named("new"); !named || len(s.List()) != 0 {
			t.Errorf("named %v, listed %+v", named, s.List())
		}
		if _, err := s.Any("new"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it is found: %v", err)
		}
		if _, err := s.Lookup("new", ""); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it is looked up: %v", err)
		}
	})
}
