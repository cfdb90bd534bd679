package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

const (
	mostImages    = 10
	leastImages   = 3
	mostSnapshots = 16
	unlimited     = 100_000 // a depth that no program reaches
)

// world is one program's state: the store under test, the oracle, and what ties them.
type world struct {
	ctx    context.Context
	seed   uint64
	rng    *rand.Rand
	m      Machine
	real   store.Full
	oracle *memstore.Store
	images []*thing
	snaps  []*thing
	kins   map[store.ID]*kin // by the image's id in the store under test, removed ones too
	exact  bool              // no image has a policy that makes flattens of its own
	serial int
	ops    int64
	gate   *Gate // the backend's, nil if it has none
	n      *tally
	story  []string
}

// kin is the lineage of one image, also after it was removed.
type kin struct {
	name   string
	real   store.ID
	parent *kin
	via    *thing // the snapshot cloned from, nil for a clone of an image
	live   bool
	snaps  int  // live snapshots
	flat   bool // a flatten was begun whose end is not known
	soft   int
}

// thing is one live image or snapshot in both stores.
type thing struct {
	kin         *kin
	kind        store.Kind
	name        string
	real, model store.ID
	size        int64
	dev, twin   store.Device // of an image that is open: under test, and the oracle's
}

func (t *thing) ref() string {
	if t.kind == store.KindSnapshot {
		return t.kin.name + "@" + t.name
	}
	return t.name
}

func newWorld(ctx context.Context, m Machine, seed uint64, n *tally) (*world, error) {
	s, err := m.Open()
	if err != nil {
		return nil, fmt.Errorf("open the new store: %w", err)
	}
	w := &world{
		ctx: ctx, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), m: m, real: s, n: n,
		oracle: memstore.New(), kins: make(map[store.ID]*kin), exact: seed%2 == 0,
	}
	if g, ok := m.(Gated); ok {
		w.gate = g.Gate()
	}
	for range leastImages {
		a := &createAction{}
		a.plan(w)
		if err := a.run(ctx, w); err != nil {
			return nil, fmt.Errorf("%s: %w", a.label(), err)
		}
		if err := a.mirror(w); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%4d. ", len(w.story)+1)+fmt.Sprintf(format, args...))
}

func (w *world) count(n int64) {
	w.ops += n
	w.n.ops.Add(n)
}

func (w *world) fresh(prefix string) string {
	w.serial++
	return fmt.Sprintf("%s%d", prefix, w.serial)
}

// newSize is mostly small, so that blocks are hot, and sometimes 1 to 8 MiB.
func (w *world) newSize() int64 {
	if w.rng.IntN(12) == 0 {
		return mib + w.rng.Int64N(7*256)*blk
	}
	return (16 + w.rng.Int64N(80)) * blk
}

func pick[E any](rng *rand.Rand, list []E) E { return list[rng.IntN(len(list))] }

// pickImage returns a random image other than the given ones, nil if there is none.
// The oldest few are favoured, so that much happens to the same image.
func (w *world) pickImage(not ...*thing) *thing {
	left := slices.DeleteFunc(slices.Clone(w.images), func(t *thing) bool { return slices.Contains(not, t) })
	if len(left) == 0 {
		return nil
	}
	if w.rng.IntN(2) == 0 {
		left = left[:min(leastImages, len(left))]
	}
	return pick(w.rng, left)
}

// open opens an image in both stores, unless it is open.
func (w *world) open(t *thing) error {
	if t.dev != nil {
		return nil
	}
	var err error
	if t.dev, err = w.real.Open(w.ctx, t.real); err != nil {
		t.dev = nil
		return fmt.Errorf("open %s: %w", t.ref(), err)
	}
	if t.twin, err = w.oracle.Open(w.ctx, t.model); err != nil {
		return fmt.Errorf("open the oracle's %s: %w", t.ref(), err)
	}
	return nil
}

func (w *world) close(t *thing) error {
	if t == nil || t.dev == nil {
		return nil
	}
	err := t.dev.Close()
	t.twin.Close() // never fails
	t.dev, t.twin = nil, nil
	if err != nil {
		return fmt.Errorf("close %s: %w", t.ref(), err)
	}
	return nil
}

// add makes an object of both stores known.
func (w *world) add(k *kin, real, model store.Info) *thing {
	t := &thing{kin: k, kind: real.Kind, name: real.Name, real: real.ID, model: model.ID, size: real.Size}
	if t.kind == store.KindImage {
		w.images = append(w.images, t)
	} else {
		w.snaps = append(w.snaps, t)
		k.snaps++
	}
	return t
}

func (w *world) drop(t *thing) {
	gone := func(x *thing) bool { return x == t }
	if t.kind == store.KindImage {
		w.images = slices.DeleteFunc(w.images, gone)
		t.kin.live = false
		return
	}
	w.snaps = slices.DeleteFunc(w.snaps, gone)
	t.kin.snaps--
}

// snapsOf lists the live snapshots of an image's family, in the order they were made.
func (w *world) snapsOf(k *kin) []*thing {
	var list []*thing
	for _, s := range w.snaps {
		if s.kin == k {
			list = append(list, s)
		}
	}
	return list
}

// bytes reads a range of an object of either store.
func readRange(ctx context.Context, s store.Store, id store.ID, off, length int64) ([]byte, error) {
	d, err := s.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	p := make([]byte, length)
	if n, err := d.ReadAt(p, off); err != nil || n != len(p) {
		return nil, fmt.Errorf("read %d bytes at %d: %d, %w", length, off, n, err)
	}
	return p, nil
}
