//go:build ceph

package rbd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// trio runs the same program on three stores that share no code below the vocabulary.
type trio struct {
	*bench
	rng    *rand.Rand
	stores map[string]store.Full
	serial int
	sizes  map[string]int64 // of live objects, by reference
	story  []string
}

// TestDifferential runs random programs on this store, on the embedded one and on the
// oracle. Bytes, names, lineage and overlap must be equal, and what the rbd command says
// of each image too.
func TestDifferential(t *testing.T) {
	l := newLab(t)
	seed := uint64(time.Now().UnixNano())
	programs := 3
	if text := os.Getenv("STRATA_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
		programs = 1
	}
	for n := range programs {
		t.Run(fmt.Sprintf("seed=%d", seed+uint64(n)), func(t *testing.T) {
			d := newTrio(t, l, seed+uint64(n))
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("STRATA_SEED=%d; the story:\n%s", seed+uint64(n), strings.Join(d.story, "\n"))
				}
			})
			for range 60 {
				d.step()
			}
			d.compare()
			d.witness()
		})
	}
}

func newTrio(t *testing.T, l *lab, seed uint64) *trio {
	b := newBench(t, l, 64<<10)
	dir := t.TempDir()
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	embedded, err := layered.Open(dir, layered.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := embedded.Close(); err != nil {
			t.Error(err)
		}
	})
	return &trio{
		bench: b, rng: rand.New(rand.NewPCG(seed, 5)), sizes: map[string]int64{},
		stores: map[string]store.Full{"rbd": b.s, "layered": embedded, "oracle": memstore.New()},
	}
}

func (d *trio) id(s store.Full, ref string) store.ID {
	d.Helper()
	i, err := s.Lookup(d.Context(), ref)
	d.must(err)
	return i.ID
}

// do runs one operation on all three.
func (d *trio) do(what string, fn func(s store.Full) error) {
	d.Helper()
	d.story = append(d.story, what)
	for name, s := range d.stores {
		if err := fn(s); err != nil {
			d.Fatalf("%s: %s: %v", name, what, err)
		}
	}
}

// pick returns a live object: an image, or any.
func (d *trio) pick(image bool) string {
	refs := slices.DeleteFunc(slices.Sorted(maps.Keys(d.sizes)), func(r string) bool { return image && strings.Contains(r, "@") })
	if len(refs) == 0 {
		return ""
	}
	return refs[d.rng.IntN(len(refs))]
}

func (d *trio) step() {
	d.serial++
	image, any := d.pick(true), d.pick(false)
	switch n := d.rng.IntN(20); {
	case image == "" || n < 2 && len(d.sizes) < 12:
		d.create()
	case n < 10:
		d.change(image)
	case n < 13:
		name := fmt.Sprintf("s%d", d.serial)
		d.do("snapshot "+image+"@"+name, func(s store.Full) error {
			_, err := s.Snapshot(d.Context(), d.id(s, image), name)
			return err
		})
		d.sizes[image+"@"+name] = d.sizes[image]
	case n < 16:
		spec := store.Spec{Name: fmt.Sprintf("i%d", d.serial), Size: d.sizes[any] + int64(d.rng.IntN(2))*64<<10}
		d.do(fmt.Sprintf("clone %s of %s with %d KiB", spec.Name, any, spec.Size>>10), func(s store.Full) error {
			spec := spec
			spec.Parent = d.id(s, any)
			_, err := s.Create(d.Context(), spec)
			return err
		})
		d.sizes[spec.Name] = spec.Size
	case n < 17:
		size := (1 + d.rng.Int64N(64)) * 16 << 10
		d.do(fmt.Sprintf("resize %s to %d KiB", image, size>>10), func(s store.Full) error {
			_, err := s.Resize(d.Context(), d.id(s, image), size)
			return err
		})
		d.sizes[image] = size
	case n < 18:
		d.do("flatten "+image, func(s store.Full) error { return s.Flatten(d.Context(), d.id(s, image)) })
	case !strings.Contains(any, "@") && d.hasSnapshots(any): // its references would be hidden by a new name
	default:
		d.do("remove "+any, func(s store.Full) error { return s.Remove(d.Context(), d.id(s, any)) })
		delete(d.sizes, any)
	}
}

func (d *trio) hasSnapshots(image string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(d.sizes)), func(r string) bool { return strings.HasPrefix(r, image+"@") })
}

func (d *trio) create() {
	spec := store.Spec{Name: fmt.Sprintf("i%d", d.serial), Size: (1 + d.rng.Int64N(64)) * 16 << 10, Policy: store.Policy{Soft: 1000, Hard: 1000}}
	d.do("create "+spec.Name, func(s store.Full) error {
		_, err := s.Create(d.Context(), spec)
		return err
	})
	d.sizes[spec.Name] = spec.Size
}

// change writes, zeroes and discards somewhere in an image.
func (d *trio) change(image string) {
	for range 1 + d.rng.IntN(4) {
		length := 1 + d.rng.Int64N(min(d.sizes[image], 200<<10))
		off := d.rng.Int64N(d.sizes[image] - length + 1)
		kind := d.rng.IntN(4)
		p := bytes.Repeat([]byte{byte(1 + d.rng.IntN(255))}, int(length))
		d.do(fmt.Sprintf("change %d of %s at %d, %d bytes", kind, image, off, length), func(s store.Full) error {
			v, err := s.Open(d.Context(), d.id(s, image))
			if err != nil {
				return err
			}
			defer v.Close()
			switch kind {
			case 0:
				return v.Discard(off, length)
			case 1:
				return v.Zero(off, length, d.serial%2 == 0)
			}
			_, err = v.WriteAt(p, off)
			return err
		})
	}
}

// compare requires that all three show the same of every object.
func (d *trio) compare() {
	d.Helper()
	for ref, size := range d.sizes {
		var want []byte
		infos := map[string]store.Info{}
		for _, name := range []string{"oracle", "layered", "rbd"} {
			s := d.stores[name]
			info, err := s.Lookup(d.Context(), ref)
			d.must(err)
			infos[name] = info
			v, err := s.Open(d.Context(), info.ID)
			d.must(err)
			p := make([]byte, size)
			_, err = v.ReadAt(p, 0)
			d.must(err)
			d.must(v.Close())
			if want == nil {
				want = p
			} else if !bytes.Equal(want, p) {
				d.Errorf("%s shows other bytes of %s than the oracle", name, ref)
			}
		}
		o, r := infos["oracle"], infos["rbd"]
		if o.Size != r.Size || o.Depth != r.Depth || o.Overlap != r.Overlap || o.ParentName != r.ParentName || o.Snapshots != r.Snapshots {
			d.Errorf("%s is %+v, the oracle has %+v", ref, r, o)
		}
		if l := infos["layered"]; l.Size != r.Size || l.Snapshots != r.Snapshots || l.Depth > r.Depth {
			d.Errorf("%s is %+v, the embedded store has %+v", ref, r, l)
		}
		d.same(r, want)
	}
}

// witness requires that the rbd command sees the lineage and the space that the store
// tells of.
func (d *trio) witness() {
	d.Helper()
	s := d.stores["rbd"].(*rbd.Store)
	d.settle()
	for ref := range d.sizes {
		if strings.Contains(ref, "@") {
			continue
		}
		info, err := s.Lookup(d.Context(), ref)
		d.must(err)
		got := d.info(d.name(info))
		if got.Size != info.Size || (got.Parent == nil) != (info.Parent == "") || got.Parent != nil && got.Parent.Overlap != info.Overlap {
			d.Errorf("rbd info of %s is %+v with parent %+v, the store says %+v", ref, got, got.Parent, info)
		}
		if got.Parent != nil && got.Parent.Image != d.name(store.Info{Image: info.Parent}) {
			d.Errorf("rbd info of %s names the parent %s, the store %s", ref, got.Parent.Image, info.Parent)
		}
		var kids []struct {
			Image string `json:"image"`
		}
		d.must(json.Unmarshal(d.rbd("children", "--all", "--format", "json", d.name(info)), &kids))
		live, err := s.Children(d.Context(), info.ID)
		d.must(err)
		for _, k := range live {
			if !slices.ContainsFunc(kids, func(x struct {
				Image string `json:"image"`
			}) bool {
				return x.Image == d.name(k)
			}) {
				d.Errorf("rbd children of %s lacks %s: %v", ref, k.Name, kids)
			}
		}
		d.space(s, info)
	}
}

// space compares an image's own space with rbd du, which has no other notion of it.
func (d *trio) space(s *rbd.Store, info store.Info) {
	d.Helper()
	var du struct {
		Images []struct {
			Snapshot string `json:"snapshot"`
			Used     int64  `json:"used_size"`
		} `json:"images"`
	}
	d.must(json.Unmarshal(d.rbd("du", "--format", "json", d.name(info)), &du))
	u, err := s.Usage(d.Context(), info.ID)
	d.must(err)
	for _, i := range du.Images {
		// The command counts the last object whole, the store up to the image's end.
		if i.Snapshot == "" && (u.Own > i.Used || i.Used-u.Own >= 64<<10) {
			d.Errorf("rbd du of %s is %d, the store says %+v", info.Name, i.Used, u)
		}
	}
}

// TestRounds: snapshot, restore, delete what it came from, again and again: the depth
// keeps its limit and nothing builds up in pool or trash.
func TestRounds(t *testing.T) {
	b := newBench(t, newLab(t), 64<<10)
	rounds := 40
	if n, err := strconv.Atoi(os.Getenv("STRATA_CEPH_ROUNDS")); err == nil {
		rounds = n
	}
	policy := store.Policy{Soft: rbd.DefaultSoft, Hard: rbd.DefaultHard}
	img := b.create(store.Spec{Name: "v0", Size: mib, Policy: policy})
	want := letters(mib, 'a')
	b.write(img, 0, want)
	for n := 1; n <= rounds; n++ {
		snap := b.snapshot(img, "s")
		next := b.clone(fmt.Sprintf("v%d", n), snap)
		at := int64(n%16) * 64 << 10
		copy(want[at:], letters(100, byte(n)))
		b.write(next, at, want[at:at+100])
		b.must(b.s.Remove(b.Context(), img.ID))
		b.must(b.s.Remove(b.Context(), snap.ID))
		img = next
		if depth := b.stat(img).Depth; depth > policy.Hard {
			t.Fatalf("round %d: depth %d", n, depth)
		}
	}
	b.settle()
	b.same(img, want)
	status, err := b.s.Status(t.Context())
	b.must(err)
	left := strings.Count(string(b.rbd("ls"))+string(b.rbd("trash", "ls", "--all")), "strata."+b.o.Installation+".")
	if got := b.stat(img); got.Depth > policy.Soft || left > policy.Soft+1 || status.Layers > 2*left {
		t.Errorf("after %d rounds the depth is %d, %d images are in pool and trash, and there are %d layers", rounds, got.Depth, left, status.Layers)
	}
}
