//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// objectSize is that of RBD objects; sizes and writes are chosen to meet its borders.
const objectSize = 4 << 20

// peer is one of the stores that a program runs on.
type peer struct {
	name string
	s    store.Full
}

// object is an image or a snapshot, with its id on each store.
type object struct {
	name  string // image or image@snapshot
	ids   []store.ID
	owner *object // of a snapshot
}

// program runs the same random operations on several stores. The first is the one that
// is tested; the last is the oracle.
type program struct {
	r      *rig
	rng    *mrand.Rand
	peers  []peer
	images []*object
	snaps  []*object
	made   int
	ops    []string // what was done, for whoever has to find out why
}

func (p *program) oracle() int { return len(p.peers) - 1 }

// every runs do on each store; all have to succeed, or none may.
func (p *program) every(what string, do func(s store.Full, n int) error) error {
	p.r.Helper()
	p.ops = append(p.ops, what)
	errs := make([]error, len(p.peers))
	for n, peer := range p.peers {
		errs[n] = do(peer.s, n)
	}
	for n, err := range errs {
		if (err == nil) != (errs[p.oracle()] == nil) {
			p.r.Fatalf("%s: %s says %v, %s says %v", what, p.peers[n].name, err, p.peers[p.oracle()].name, errs[p.oracle()])
		}
	}
	return errs[p.oracle()]
}

// must is every with an operation that cannot fail.
func (p *program) must(what string, do func(s store.Full, n int) error) {
	p.r.Helper()
	if err := p.every(what, do); err != nil {
		p.r.Fatalf("%s: %v", what, err)
	}
}

func (p *program) pick(list []*object) *object { return list[p.rng.IntN(len(list))] }

// size is a multiple of 4 KiB around a few objects.
func (p *program) size() int64 {
	return int64(1+p.rng.IntN(5*objectSize/store.Block)) * store.Block
}

// step does one operation.
func (p *program) step(ctx context.Context) {
	p.r.Helper()
	all := append(slices.Clone(p.images), p.snaps...)
	switch n := p.rng.IntN(100); {
	case len(p.images) == 0 || n < 6:
		p.create(ctx, nil)
	case n < 22 && len(p.images) < 10:
		p.create(ctx, p.pick(all))
	case n < 34 && len(p.snaps) < 12:
		p.snapshot(ctx, p.pick(p.images))
	case n < 42:
		p.resize(ctx, p.pick(p.images))
	case n < 47:
		p.flatten(ctx, p.pick(p.images))
	case n < 51 && len(p.snaps) > 0:
		p.revert(ctx, p.pick(p.snaps))
	case n < 58 && len(all) > 4:
		p.remove(ctx, p.pick(all))
	default:
		p.write(ctx, p.pick(p.images))
	}
}

func (p *program) create(ctx context.Context, parent *object) {
	p.r.Helper()
	p.made++
	o := &object{name: fmt.Sprintf("image%d", p.made), ids: make([]store.ID, len(p.peers))}
	spec := store.Spec{Name: o.name, Size: p.size(), Policy: store.Policy{Soft: 60, Hard: 64}}
	what := fmt.Sprintf("create %s of %d", o.name, spec.Size)
	if parent != nil {
		info, err := p.peers[p.oracle()].s.Stat(ctx, parent.ids[p.oracle()])
		p.r.must(err)
		spec.Size = 0
		if p.rng.IntN(2) == 0 {
			spec.Size = info.Size + p.size()/2/store.Block*store.Block
		}
		what = fmt.Sprintf("clone %s to %s of %d", parent.name, o.name, spec.Size)
	}
	p.must(what, func(s store.Full, n int) error {
		spec := spec
		if parent != nil {
			spec.Parent = parent.ids[n]
		}
		info, err := s.Create(ctx, spec)
		o.ids[n] = info.ID
		return err
	})
	p.images = append(p.images, o)
}

func (p *program) snapshot(ctx context.Context, image *object) {
	p.r.Helper()
	p.made++
	name := fmt.Sprintf("snap%d", p.made)
	o := &object{name: image.name + "@" + name, ids: make([]store.ID, len(p.peers)), owner: image}
	p.must("snapshot "+o.name, func(s store.Full, n int) error {
		info, err := s.Snapshot(ctx, image.ids[n], name)
		o.ids[n] = info.ID
		return err
	})
	p.snaps = append(p.snaps, o)
}

func (p *program) resize(ctx context.Context, image *object) {
	p.r.Helper()
	size := p.size()
	p.must(fmt.Sprintf("resize %s to %d", image.name, size), func(s store.Full, n int) error {
		_, err := s.Resize(ctx, image.ids[n], size)
		return err
	})
}

func (p *program) flatten(ctx context.Context, image *object) {
	p.r.Helper()
	p.must("flatten "+image.name, func(s store.Full, n int) error { return s.Flatten(ctx, image.ids[n]) })
}

func (p *program) revert(ctx context.Context, snap *object) {
	p.r.Helper()
	if !slices.Contains(p.images, snap.owner) {
		return
	}
	p.must("revert to "+snap.name, func(s store.Full, n int) error {
		return s.Revert(ctx, snap.owner.ids[n], snap.ids[n])
	})
}

func (p *program) remove(ctx context.Context, o *object) {
	p.r.Helper()
	p.must("remove "+o.name, func(s store.Full, n int) error { return s.Remove(ctx, o.ids[n]) })
	p.images = slices.DeleteFunc(p.images, func(x *object) bool { return x == o })
	p.snaps = slices.DeleteFunc(p.snaps, func(x *object) bool { return x == o })
}

// write changes a few ranges of an image.
func (p *program) write(ctx context.Context, image *object) {
	p.r.Helper()
	devices := make([]store.Device, len(p.peers))
	p.must("open "+image.name, func(s store.Full, n int) (err error) {
		devices[n], err = s.Open(ctx, image.ids[n])
		return err
	})
	size := devices[p.oracle()].Info().Size
	for range 1 + p.rng.IntN(4) {
		off, length := p.span(size)
		data := make([]byte, length)
		for i := range data {
			data[i] = byte(p.rng.Uint32())
		}
		kind, allocate := p.rng.IntN(8), p.rng.IntN(2) == 0
		name := [8]string{"zero", "discard"}[min(kind, 1)]
		if kind > 1 {
			name = "write"
		}
		p.must(fmt.Sprintf("%s %s at %d+%d", name, image.name, off, length), func(_ store.Full, n int) error {
			switch name {
			case "zero":
				return devices[n].Zero(off, length, allocate)
			case "discard":
				return devices[n].Discard(off, length)
			}
			_, err := devices[n].WriteAt(data, off)
			return err
		})
	}
	p.must("flush and close "+image.name, func(_ store.Full, n int) error {
		return errors.Join(devices[n].Flush(), devices[n].Close())
	})
}

// span is a range of whole sectors, often across a border of objects.
func (p *program) span(size int64) (off, length int64) {
	const sector = store.Block
	length = min(size, int64(1+p.rng.IntN(64))*sector)
	if p.rng.IntN(8) == 0 {
		length = min(size, int64(1+p.rng.IntN(2*objectSize/sector))*sector)
	}
	off = int64(p.rng.Int64N((size-length)/sector+1)) * sector
	if border := (off/objectSize + 1) * objectSize; p.rng.IntN(3) == 0 && border+length/2 < size && border >= length/2 {
		off = (border - length/2) / sector * sector
	}
	return off, min(length, size-off)
}

// content is all bytes of an object on a store.
func (p *program) content(ctx context.Context, n int, o *object) []byte {
	p.r.Helper()
	dev, err := p.peers[n].s.Open(ctx, o.ids[n])
	p.r.must(err)
	data := make([]byte, dev.Info().Size)
	for off := 0; off < len(data); {
		k, err := dev.ReadAt(data[off:min(len(data), off+8<<20)], int64(off))
		p.r.must(err)
		off += k
	}
	p.r.must(dev.Close())
	return data
}

// compare compares sizes, lineage and content of all objects between the stores, and
// calls witness with what the oracle says of each.
func (p *program) compare(ctx context.Context, witness func(o *object, tested store.Info, data []byte)) {
	p.r.Helper()
	for _, o := range append(slices.Clone(p.images), p.snaps...) {
		infos := make([]store.Info, len(p.peers))
		for n := range p.peers {
			var err error
			infos[n], err = p.peers[n].s.Stat(ctx, o.ids[n])
			p.r.must(err)
		}
		truth := infos[p.oracle()]
		data := p.content(ctx, p.oracle(), o)
		for n, peer := range p.peers[:p.oracle()] {
			i := infos[n]
			if i.Size != truth.Size || i.Depth > truth.Depth || i.ParentName != truth.ParentName && i.Parent != "" || i.Overlap != truth.Overlap && i.Parent != "" {
				p.r.Errorf("%s on %s: size %d, depth %d, parent %q, overlap %d; the oracle says %d, %d, %q, %d",
					o.name, peer.name, i.Size, i.Depth, i.ParentName, i.Overlap, truth.Size, truth.Depth, truth.ParentName, truth.Overlap)
			}
			if got := p.content(ctx, n, o); !bytes.Equal(got, data) {
				p.r.Errorf("%s on %s differs from the oracle, first at %d of %d", o.name, peer.name, firstDifference(got, data), len(data))
			}
		}
		witness(o, infos[0], data)
	}
	if p.r.Failed() {
		p.r.Fatalf("after:\n%s", p.ops)
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
