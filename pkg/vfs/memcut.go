package vfs

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
)

// ProcessCrash makes every open file stale (ErrStale) and waits for operations in
// flight. All content stays, synced or not, and so does CacheID. What is left of
// the crashed process may still use the disk by path; to stop that, give each
// process a Faulty of its own and Crash it first.
func (m *Mem) ProcessCrash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	m.handles.Store(0)
	m.used.Store(0)
	for n := range m.live.home {
		if !n.dir {
			n.file.opens.Store(0)
			m.used.Add(int64(len(n.file.live.pages)))
		}
	}
}

// PowerCut answers a new disk as this one could look after losing power now. This
// one goes on unharmed, so many cuts can be made of one moment.
//
// What was synced is kept. Each unsynced change of a file is kept wholly, torn at
// sector boundaries, or dropped, whatever became of the others; a sector that is
// kept shows what the page cache held after that change. Each unsynced change of
// names is kept or dropped; a rename is never half done. The choices depend on
// rng alone. With a nil rng nothing unsynced is kept.
func (m *Mem) PowerCut(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := cutter{rng: rng}
	c.tear = c.chance() / 4
	tree := m.stable.clone()
	keep := c.chance()
	for _, op := range m.pending {
		if len(op.owed) == 0 || c.flip(keep) {
			tree.apply(op)
		}
	}
	cut := &Mem{
		root:     &node{dir: true},
		cacheID:  fmt.Sprintf("mem-%d", m.cuts.Add(1)),
		cuts:     m.cuts,
		capacity: m.capacity,
		reflink:  m.reflink,
		direct:   m.direct,
	}
	cut.live = newNames(cut.root)
	c.copyDir(cut, tree, m.root, cut.root)
	cut.stable = cut.live.clone()
	return cut
}

// files are the files that have a name now, on disk, or by an undecided change.
func (m *Mem) files() iter.Seq[*memData] {
	seen := map[*memData]bool{}
	add := func(n *node) {
		if !n.dir {
			seen[n.file] = true
		}
	}
	for n := range m.live.home {
		add(n)
	}
	for n := range m.stable.home {
		add(n)
	}
	for _, op := range m.pending {
		add(op.node)
	}
	return maps.Keys(seen)
}

// cutter makes the choices of one power cut.
type cutter struct {
	rng  *rand.Rand
	tear float64 // how likely a change is torn
}

// chance draws how likely changes are to be kept; the extremes are frequent,
// since all-or-nothing finds different mistakes than half-and-half.
func (c *cutter) chance() float64 {
	if c.rng == nil {
		return 0
	}
	return []float64{0, 0.1, 0.5, 0.9, 1}[c.rng.IntN(5)]
}

func (c *cutter) flip(chance float64) bool { return c.rng != nil && c.rng.Float64() < chance }

// copyDir copies a directory of the cut tree, in the order of names.
func (c *cutter) copyDir(cut *Mem, tree names, from, to *node) {
	in := tree.entries[from]
	for _, name := range slices.Sorted(maps.Keys(in)) {
		old := in[name]
		n := &node{dir: old.dir}
		if !old.dir {
			n.file = c.file(old.file)
			cut.used.Add(int64(len(n.file.live.pages)))
		}
		cut.live.put(place{to, name}, n)
		if old.dir {
			c.copyDir(cut, tree, old, n)
		}
	}
}

// file decides what is left of a file.
func (c *cutter) file(d *memData) *memData {
	d.mu.RLock()
	defer d.mu.RUnlock()
	left := d.disk.clone()
	keep := c.chance()
	for _, op := range d.unsynced {
		whole := c.flip(keep)
		torn := c.flip(c.tear)
		if !whole && !torn {
			continue
		}
		switch {
		case op.kind == OpTruncate:
			if whole {
				left.truncate(op.length)
			}
		case op.kind == OpPunch && !torn:
			left.zero(op.off, op.length)
		case op.kind == OpPunch:
			c.tearHole(&left, op)
		default:
			c.keepWrite(&left, op, torn)
		}
	}
	left.zero(left.size, 1<<62) // sectors that were kept may hold more than the size shows
	return &memData{live: left, disk: left.clone()}
}

// tearHole keeps a hole up to, or from, some sector on.
func (c *cutter) tearHole(left *pageSet, op fileOp) {
	first, last := op.off/sectorSize, (op.off+op.length)/sectorSize
	at := min(max((first+c.rng.Int64N(last-first+1))*sectorSize, op.off), op.off+op.length)
	if c.flip(0.5) {
		left.zero(op.off, at-op.off)
	} else {
		left.zero(at, op.off+op.length-at)
	}
}

// keepWrite puts the sectors of a write in place, or some of them if it is torn.
func (c *cutter) keepWrite(left *pageSet, op fileOp, torn bool) {
	first, last := op.off/sectorSize, (op.off+op.length-1)/sectorSize
	kept := func(int64) bool { return true }
	if torn {
		at := first + c.rng.Int64N(last-first+1)
		kept = []func(int64) bool{
			func(s int64) bool { return s < at },
			func(s int64) bool { return s > at },
			func(int64) bool { return c.flip(0.5) },
		}[c.rng.IntN(3)]
	}
	for s := first; s <= last; s++ {
		if !kept(s) {
			continue
		}
		i := s * sectorSize / pageSize
		version := op.pages[i-op.off/pageSize]
		if !torn && i*pageSize >= op.off && (i+1)*pageSize <= op.off+op.length {
			left.pages[i] = version
			s = (i+1)*pageSize/sectorSize - 1
		} else {
			left.putSector(s, version)
		}
		left.size = max(left.size, min((s+1)*sectorSize, op.off+op.length))
	}
}

var _ FS = (*Mem)(nil)
