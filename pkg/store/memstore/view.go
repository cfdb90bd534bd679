package memstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// cell is one stored block. It is never changed.
type cell struct {
	data     []byte // store.Block bytes, or nil: reads as zero
	reserved bool   // a zero whose space stays allocated
	part     *part
}

// view is the bytes of one image or snapshot.
type view struct {
	cells   map[int64]*cell
	size    int64
	overlap int64 // bytes visible of the clone parent
	part    *part // the newest part; an image writes into it
}

// fork copies the view; what is written to the copy goes into a part of owner.
func (v *view) fork(owner *family) view {
	return view{
		cells:   maps.Clone(v.cells),
		size:    v.size,
		overlap: v.overlap,
		part:    &part{owner: owner, below: v.part},
	}
}

// seal makes everything stored so far part of history and returns that part. A
// part into which nothing went since the last seal is not sealed again.
func (v *view) seal() *part {
	if !v.part.used && v.part.below != nil && v.part.below.owner == v.part.owner {
		return v.part.below
	}
	sealed := v.part
	v.part = &part{owner: sealed.owner, below: sealed}
	return sealed
}

func (v *view) check(off, length int64) error {
	if off < 0 || length < 0 || off > v.size || length > v.size-off {
		return fmt.Errorf("%d bytes at %d of %d: %w", length, off, v.size, store.ErrRange)
	}
	return nil
}

// pieces calls fn for the part of each block that the range covers: the block's
// number, and the range's bounds inside the block and relative to off.
func pieces(off, length int64, fn func(block, from, to, at int64)) {
	for at := int64(0); at < length; {
		block, from := (off+at)/store.Block, (off+at)%store.Block
		to := min(store.Block, from+length-at)
		fn(block, from, to, at)
		at += to - from
	}
}

func (v *view) read(p []byte, off int64) {
	pieces(off, int64(len(p)), func(block, from, to, at int64) {
		dst := p[at : at+to-from]
		if c := v.cells[block]; c != nil && c.data != nil {
			copy(dst, c.data[from:to])
		} else {
			clear(dst)
		}
	})
}

func (v *view) write(p []byte, off int64) {
	pieces(off, int64(len(p)), func(block, from, to, at int64) {
		data := make([]byte, store.Block)
		if c := v.cells[block]; c != nil && c.data != nil {
			copy(data, c.data)
		}
		copy(data[from:to], p[at:at+to-from])
		v.put(block, &cell{data: data})
	})
}

// zero makes a range read as zero. A block without a cell does already.
func (v *view) zero(off, length int64, reserve bool) {
	v.stored(off, length, func(block, from, to int64) {
		c := v.cells[block]
		switch {
		case to-from == store.Block:
			v.put(block, &cell{reserved: reserve})
		case c.data != nil:
			data := append([]byte(nil), c.data...)
			clear(data[from:to])
			v.put(block, &cell{data: data})
		}
	})
}

func (v *view) discard(off, length int64) {
	v.stored(off, length, func(block, from, to int64) {
		if to-from == store.Block {
			v.put(block, &cell{})
		}
	})
}

// stored calls fn for each block of the range that has a cell, in ascending order:
// its number, and the range's bounds inside it.
func (v *view) stored(off, length int64, fn func(block, from, to int64)) {
	for _, block := range blocks(off, length, v) {
		start := block * store.Block
		fn(block, max(off-start, 0), min(off+length-start, store.Block))
	}
}

// blocks lists the blocks of the range for which one of the views has a cell.
func blocks(off, length int64, views ...*view) []int64 {
	if length == 0 {
		return nil
	}
	first, last := off/store.Block, (off+length-1)/store.Block
	found := make(map[int64]bool)
	for _, v := range views {
		if v == nil {
			continue
		}
		if last-first < int64(len(v.cells)) {
			for block := first; block <= last; block++ {
				if v.cells[block] != nil {
					found[block] = true
				}
			}
			continue
		}
		for block := range v.cells {
			if first <= block && block <= last {
				found[block] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (v *view) put(block int64, c *cell) {
	c.part = v.part
	v.part.used = true
	v.cells[block] = c
}

func (v *view) resize(size int64) {
	if size == v.size {
		return
	}
	for block := range v.cells {
		if block*store.Block >= size {
			delete(v.cells, block)
		}
	}
	v.size = size
	v.overlap = min(v.overlap, size)
	v.part.used = true
}

// extents calls fn for the runs of a range, merged where nothing differs. With base
// set, runs also differ in whether base has the same cell.
func (v *view) extents(off, length int64, base *view, fn func(store.Extent)) {
	depths := v.part.depths()
	run := store.Extent{Offset: off}
	add := func(end int64, e store.Extent) {
		e.Offset = run.Offset + run.Length
		e.Length = end - e.Offset
		switch {
		case e.Length <= 0:
		case run.Length > 0 && sameKind(run, e):
			run.Length += e.Length
		default:
			if run.Length > 0 {
				fn(run)
			}
			run = e
		}
	}
	hole := store.Extent{Zero: true}
	for _, block := range blocks(off, length, v, base) {
		add(block*store.Block, hole)
		add(min((block+1)*store.Block, off+length), v.extent(block, base, depths))
	}
	add(off+length, hole)
	if run.Length > 0 {
		fn(run)
	}
}

func (v *view) extent(block int64, base *view, depths map[*part]int) store.Extent {
	c := v.cells[block]
	e := store.Extent{Zero: c == nil || c.data == nil}
	if c != nil {
		e.Data = c.data != nil || c.reserved
		e.Depth = depths[c.part]
	}
	e.Changed = base != nil && base.cells[block] != c
	return e
}

func sameKind(a, b store.Extent) bool {
	return a.Data == b.Data && a.Zero == b.Zero && a.Depth == b.Depth && a.Changed == b.Changed
}
