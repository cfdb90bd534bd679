package layered

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

func openEmpty(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	if err := Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	st, err := Open(dir, Options{Reserve: -1, NoCatalogueSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// A request that comes too late finds its view closed: it must not read zeroes from
// the empty chain, and a rebuild must not take references nobody gives back.
func TestClosedView(t *testing.T) {
	st := openEmpty(t)
	i, err := st.Create(context.Background(), store.Spec{Name: "image", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	im, err := st.use(i.ID)
	if err != nil {
		t.Fatal(err)
	}
	v := im.view
	im.done()
	if err := v.read(make([]byte, 4096), 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a read answers %v", err)
	}
	if _, err := v.nextChunk(0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a search for data answers %v", err)
	}
	if err := v.rebuild(); err != nil {
		t.Errorf("a rebuild answers %v", err)
	}
	if len(v.chain) != 0 || len(st.layers.refs) != 0 {
		t.Errorf("a closed view has a chain of %d layers, %d layers are in use", len(v.chain), len(st.layers.refs))
	}
}

// When the layer on top of an index goes, the others must not go on naming it: they
// would never be covered by another index.
func TestIndexGoesWithItsTop(t *testing.T) {
	st := openEmpty(t)
	ctx := context.Background()
	i, err := st.Create(ctx, store.Spec{Name: "image", Size: 1 << 20})
	var snaps []store.Info
	for n := 0; err == nil && n < 150; n++ {
		var dev store.Device
		var s store.Info
		if dev, err = st.Open(ctx, i.ID); err != nil {
			break
		}
		_, err = dev.WriteAt([]byte{byte(n)}, int64(n)*4096)
		s, snapErr := st.Snapshot(ctx, i.ID, fmt.Sprintf("s%d", n))
		snaps = append(snaps, s)
		err = errors.Join(err, snapErr, dev.Close())
	}
	if err = errors.Join(err, st.Idle(ctx)); err != nil {
		t.Fatal(err)
	}
	if covered, _ := indexed(t, st); covered == 0 {
		t.Fatal("no layer is covered by an index")
	}
	if err := st.Revert(ctx, i.ID, snaps[10].ID); err != nil {
		t.Fatal(err)
	}
	for n := len(snaps) - 1; n > 10; n-- {
		if err := st.Remove(ctx, snaps[n].ID); err != nil {
			t.Fatal(err)
		}
		if _, orphans := indexed(t, st); orphans != 0 {
			t.Fatalf("after the removal of snapshot %d, %d layers name an index that is gone", n, orphans)
		}
	}
}

// indexed counts the layers that name an index, and those whose index has lost its top.
func indexed(t *testing.T, st *Store) (covered, orphans int) {
	t.Helper()
	err := st.cat.View(func(tx *meta.Tx) error {
		rows, err := allLayers(tx)
		for _, l := range rows {
			if l.Index == 0 {
				continue
			}
			covered++
			if _, err := tx.Layer(l.Index); err != nil {
				orphans++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return covered, orphans
}
