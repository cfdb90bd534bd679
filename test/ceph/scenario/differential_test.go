//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestDifferential runs the same random programs through a gateway, on the embedded
// store and on the oracle, and asks the command rbd what it sees of it: content, sizes,
// lineage, overlap, children and use of space. In the end all is removed, and nothing may
// be left in pool or trash. STRATA_STEPS sets the length of the program.
func TestDifferential(t *testing.T) {
	steps := 120
	if n, err := strconv.Atoi(os.Getenv("STRATA_STEPS")); err == nil {
		steps = n
	}
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	dir := filepath.Join(t.TempDir(), "layered")
	r.must(layered.Init(dir, string(store.NewID())))
	embedded, err := layered.Open(dir, layered.Options{})
	r.must(err)
	defer func() { _ = embedded.Close() }()
	p := &program{r: r, rng: r.random(), peers: []peer{{"the gateway", api}, {"layered", embedded}, {"memstore", memstore.New()}}}
	w := &witness{r: r, p: p}
	for n := range steps {
		p.step(t.Context())
		if n%30 == 29 {
			w.look(t.Context())
		}
	}
	w.look(t.Context())
	t.Logf("%d operations, %d images and %d snapshots at the end, %d exports compared", len(p.ops), len(p.images), len(p.snaps), w.exports)
	p.rng.Shuffle(len(p.images), func(a, b int) { p.images[a], p.images[b] = p.images[b], p.images[a] })
	for _, o := range append(slices.Clone(p.images), p.snaps...) {
		p.remove(t.Context(), o)
	}
	r.quiet(api)
	if left := r.strataImages(t.Context()); len(left) > 0 {
		t.Errorf("left in the pool: %v", left)
	}
	if left := r.inTrash(t.Context()); len(left) > 0 {
		t.Errorf("left in the trash: %v", left)
	}
}

// witness compares what a gateway says with what the command rbd sees.
type witness struct {
	r       *rig
	p       *program
	exports int
}

func (w *witness) look(ctx context.Context) {
	w.r.Helper()
	w.p.compare(ctx, func(o *object, said store.Info, data []byte) {
		w.r.Helper()
		w.content(ctx, o, said, data)
		if o.owner == nil {
			w.lineage(ctx, o, said)
			w.space(ctx, o, data)
		}
	})
}

// content compares what rbd exports.
func (w *witness) content(ctx context.Context, o *object, said store.Info, data []byte) {
	w.r.Helper()
	spec := inCluster(said.Image)
	if o.owner != nil {
		if !slices.Contains(w.p.images, o.owner) {
			return // its image is in the cluster's trash, from which nothing is exported
		}
		spec += "@" + string(said.ID)
	}
	w.exports++
	if got := w.r.exported(ctx, spec); !bytes.Equal(got, data) {
		w.r.Errorf("rbd export %s (%s) differs from the oracle, first at %d of %d", spec, o.name, firstDifference(got, data), len(data))
	}
}

// lineage compares size, parent and overlap, and asks the parent for its children.
func (w *witness) lineage(ctx context.Context, o *object, said store.Info) {
	w.r.Helper()
	spec := inCluster(said.ID)
	saw := w.r.info(ctx, spec)
	if saw.Size != said.Size {
		w.r.Errorf("%s: rbd info says size %d, the gateway %d", o.name, saw.Size, said.Size)
	}
	if (saw.Parent == nil) != (said.Parent == "") {
		w.r.Errorf("%s: rbd info says parent %+v, the gateway %q", o.name, saw.Parent, said.Parent)
		return
	}
	if saw.Parent == nil {
		return
	}
	if want := "strata.default." + string(said.Parent); saw.Parent.Image != want || saw.Parent.Overlap != said.Overlap {
		w.r.Errorf("%s: rbd info says parent %s with overlap %d, the gateway %s with %d", o.name, saw.Parent.Image, saw.Parent.Overlap, want, said.Overlap)
	}
	if saw.Parent.Trash {
		return
	}
	if children := w.r.children(ctx, inCluster(said.Parent)); !slices.Contains(children, spec) {
		w.r.Errorf("%s: rbd children of its parent lists %q", o.name, children)
	}
}

// space compares what rbd du counts, whole objects, with what the gateway calls the
// image's own, and that with all that it shows with the blocks that hold anything.
func (w *witness) space(ctx context.Context, o *object, data []byte) {
	w.r.Helper()
	usage, err := w.p.peers[0].s.Usage(ctx, o.ids[0])
	w.r.must(err)
	if used := w.r.used(ctx, o.ids[0]); usage.Own > used {
		w.r.Errorf("%s: the gateway says %d bytes are its own, rbd du has %d", o.name, usage.Own, used)
	}
	held := int64(0)
	for block := range slices.Chunk(data, store.Block) {
		if slices.ContainsFunc(block, func(b byte) bool { return b != 0 }) {
			held += store.Block
		}
	}
	if all := usage.Own + usage.Shared; all < held {
		w.r.Errorf("%s: the gateway counts %d bytes, and blocks of %d bytes hold data", o.name, all, held)
	}
}
