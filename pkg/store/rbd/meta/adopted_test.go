package meta_test

import (
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// TestForeignLineage: ancestors that belong to others count for depth, are nobody's
// garbage in the cluster, and are forgotten as soon as no lineage leads through them.
func TestForeignLineage(t *testing.T) {
	d := newDesk(t)
	d.update(d.a, func(tx *meta.Tx) {
		tx.PutImage(meta.Image{ID: "root", Name: "golden", ClusterID: "1", Place: "p/", Phase: meta.Removed})
		tx.PutSnapshot(meta.Snapshot{ID: "rs", Image: "root", Cluster: "4", Internal: true, Phase: meta.Removed})
		tx.PutSnapshot(meta.Snapshot{ID: "unused", Image: "root", Cluster: "5", Internal: true, Phase: meta.Removed})
		tx.PutImage(meta.Image{ID: "mid", ClusterID: "2", Place: "p/", Phase: meta.Removed, Parent: &meta.Link{Image: "root", Snapshot: "rs"}})
		tx.PutSnapshot(meta.Snapshot{ID: "ms", Image: "mid", Cluster: "7", Internal: true, Phase: meta.Removed})
		tx.PutImage(meta.Image{ID: "img", Name: "img", ClusterID: "3", Adopted: true, Parent: &meta.Link{Image: "mid", Snapshot: "ms"}})
	})
	d.update(d.a, func(tx *meta.Tx) {
		if tx.Depth("img") != 2 || !tx.Fixed("mid") || tx.Fixed("img") || len(tx.List()) != 1 {
			t.Errorf("depth %d, list %+v", tx.Depth("img"), tx.List())
		}
		if i, ok := tx.InCluster("p/", "2"); !ok || i.ID != "mid" {
			t.Errorf("by its id in the cluster there is %+v", i)
		}
		if _, ok := tx.InCluster("", "2"); ok {
			t.Error("what belongs to others is taken for the installation's")
		}
		if g := tx.Garbage("root"); g.Whole || g.Trash || len(g.Snapshots) != 1 || tx.DropForeign("root") != "" {
			t.Errorf("of the root there is too much: %+v", g)
		}
		if _, ok := tx.Snaps["unused"]; ok || tx.Images["root"].ID == "" {
			t.Error("what no lineage leads through is there, or the rest is gone")
		}
		tx.Cut("img")
	})
	d.update(d.a, func(tx *meta.Tx) {
		for id := range tx.Cuts {
			tx.Seen(id, "the last that had it open")
		}
		for parent := store.ID("mid"); parent != ""; {
			parent = tx.DropForeign(parent)
		}
		if len(tx.Images) != 1 || len(tx.Snaps) != 0 {
			t.Errorf("without a lineage there are %v and %v", tx.Images, tx.Snaps)
		}
	})
}

// TestShallowKeepsLink: a flatten of an image whose snapshots keep the parent leaves the
// link to it, so that it stays and the depth of what is cloned from them is true.
func TestShallowKeepsLink(t *testing.T) {
	d := newDesk(t)
	d.update(d.a, func(tx *meta.Tx) {
		tx.PutImage(meta.Image{ID: "base", Name: "base"})
		tx.PutSnapshot(meta.Snapshot{ID: "bs", Image: "base", Internal: true})
		tx.PutImage(meta.Image{ID: "img", Name: "img", Shallow: true, Overlap: 8, Parent: &meta.Link{Image: "base", Snapshot: "bs"}})
		tx.PutSnapshot(meta.Snapshot{ID: "s", Image: "img", Name: "s", Overlap: 8})
		if tx.Cut("img"); !tx.Fixed("img") || tx.Depth("img") != 1 || tx.Images["img"].Overlap != 0 || tx.Snaps["s"].Overlap != 8 {
			t.Errorf("after the flatten it is %+v with %+v", tx.Images["img"], tx.Snaps["s"])
		}
		if g := tx.Garbage("base"); !g.Nothing() {
			t.Errorf("the parent that a snapshot reads is garbage: %+v", g)
		}
		tx.DropSnapshot("s")
		if tx.Cut("img"); tx.Fixed("img") || tx.Depth("img") != 0 {
			t.Errorf("without the snapshot it is %+v", tx.Images["img"])
		}
	})
}

// TestHeld: what clones of others need is no garbage.
func TestHeld(t *testing.T) {
	d := newDesk(t)
	d.update(d.a, func(tx *meta.Tx) {
		img := meta.Image{ID: "img", Name: "img", Adopted: true, Phase: meta.Removed}
		snap := meta.Snapshot{ID: "s", Image: "img", Phase: meta.Removed}
		tx.PutImage(img)
		tx.PutSnapshot(snap)
		if g := tx.Garbage("img"); len(g.Snapshots) != 1 || !g.Whole {
			t.Errorf("before anything is held: %+v", g)
		}
		snap.Held = true
		tx.PutSnapshot(snap)
		if g := tx.Garbage("img"); len(g.Snapshots) != 0 || g.Whole || !g.Trash {
			t.Errorf("with a snapshot that is held: %+v", g)
		}
		tx.DropSnapshot("s")
		img.Held = true
		tx.PutImage(img)
		if g := tx.Garbage("img"); !g.Nothing() {
			t.Errorf("while it is held: %+v", g)
		}
	})
}
