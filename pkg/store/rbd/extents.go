//go:build ceph

package rbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// span is a range of bytes, [off, end).
type span struct{ off, end int64 }

func sum(list []span) (n int64) {
	for _, s := range list {
		n += s.end - s.off
	}
	return n
}

// spans lists, in whole objects, what is stored in a range, or what has changed since a
// snapshot; with parents also what is stored in ancestors. It asks the object maps and
// reads no data. The handle has been entered.
func (h *handle) spans(since string, off, length int64, parents bool) ([]span, error) {
	if length == 0 {
		return nil, nil
	}
	var list []span
	include := librbd.ExcludeParent
	if parents {
		include = librbd.IncludeParent
	}
	err := h.img.DiffIterate(librbd.DiffIterateConfig{
		SnapName: since, Offset: uint64(off), Length: uint64(length), IncludeParent: include, WholeObject: librbd.EnableWholeObject,
		Callback: func(o, n uint64, exists int, _ any) int {
			if exists == 0 && since == librbd.NoSnapshot {
				return 0
			}
			s := span{int64(o), min(int64(o+n), off+length)}
			if last := len(list) - 1; last >= 0 && list[last].end == s.off {
				list[last].end = s.end
			} else if s.off < s.end {
				list = append(list, s)
			}
			return 0
		},
	})
	slices.SortFunc(list, func(a, b span) int { return int(min(max(a.off-b.off, -1), 1)) })
	return list, classify(err)
}

// at tells whether a position lies in a span, and up to where that holds.
func at(list []span, pos, end int64) (bool, int64) {
	i, _ := slices.BinarySearchFunc(list, pos, func(s span, p int64) int {
		if s.end <= p {
			return -1
		}
		return 1
	})
	switch {
	case i == len(list):
		return false, end
	case list[i].off <= pos:
		return true, min(end, list[i].end)
	}
	return false, min(end, list[i].off)
}

// scan lists the extents of a range by what the object maps say, and by the bytes of
// the objects they name.
type scan struct {
	h, base            *handle // base may be nil
	stored, own, maybe []span  // maybe: may have changed since base
	off, end           int64
	now, then          []byte
}

const (
	scanBytes = 1 << 20 // read at once
	scanBatch = 16 << 20
)

// newScan looks at the object maps. Both handles have been entered.
func newScan(h, base *handle, off, end int64) (*scan, error) {
	c := &scan{h: h, base: base, off: off, end: end, now: make([]byte, scanBytes)}
	var err error
	if c.stored, err = h.spans(librbd.NoSnapshot, off, end-off, true); err != nil {
		return nil, err
	}
	if c.own, err = h.spans(librbd.NoSnapshot, off, end-off, false); err != nil {
		return nil, err
	}
	if base != nil {
		c.then = make([]byte, scanBytes)
		c.maybe, err = h.mayDiffer(base, off, end)
	}
	return c, err
}

// mayDiffer lists the ranges that may have changed since a snapshot of the same image.
func (h *handle) mayDiffer(base *handle, off, end int64) ([]span, error) {
	era, overlap := h.obj.Image.Era, h.obj.Image.Overlap
	if h.obj.Snap != nil {
		era, overlap = h.obj.Snap.Era, h.obj.Snap.Overlap
	}
	if h.obj.ID() == base.obj.ID() {
		return nil, nil
	}
	if base.obj.Snap.Era != era || base.obj.Snap.Overlap != overlap {
		// Rolled back in between, or less of the parent shows: the maps do not tell.
		return []span{{off, end}}, nil
	}
	return h.spans(base.obj.Snap.Cluster, off, end-off, false)
}

// next lists extents from where the last call ended, as far as a batch goes.
func (c *scan) next() (list []store.Extent, err error) {
	for read := int64(0); c.off < c.end && read < scanBatch; {
		stored, until := at(c.stored, c.off, c.end)
		own, u := at(c.own, c.off, until)
		maybe, until := at(c.maybe, c.off, u)
		if !stored && !maybe {
			list = join(list, store.Extent{Offset: c.off, Length: until - c.off, Zero: true})
			c.off = until
			continue
		}
		// To the end of a block, unless the range itself ends.
		until = min(until, c.off/store.Block*store.Block+scanBytes, c.end)
		if list, err = c.read(list, until, stored, own, maybe); err != nil {
			return list, err
		}
		read += until - c.off
		c.off = until
	}
	return list, nil
}

// read lists the blocks of a range in which nothing changes but the bytes.
func (c *scan) read(list []store.Extent, until int64, stored, own, maybe bool) ([]store.Extent, error) {
	now := c.now[:until-c.off]
	clear(now)
	if stored {
		if _, err := c.h.read(now, c.off); err != nil {
			return list, err
		}
	}
	var then []byte
	if maybe {
		then = c.then[:len(now)]
		clear(then)
		if size := c.base.size.Load(); c.off < size {
			if _, err := c.base.read(then[:min(int64(len(then)), size-c.off)], c.off); err != nil {
				return list, err
			}
		}
	}
	var zeros [store.Block]byte
	for pos := c.off; pos < until; {
		stop := min(until, (pos/store.Block+1)*store.Block)
		p := now[pos-c.off : stop-c.off]
		e := store.Extent{Offset: pos, Length: stop - pos, Zero: bytes.Equal(p, zeros[:len(p)])}
		if e.Data = !e.Zero; e.Data {
			if e.Depth = 2; own {
				e.Depth = 1
			}
		}
		e.Changed = maybe && !bytes.Equal(p, then[pos-c.off:stop-c.off])
		list = join(list, e)
		pos = stop
	}
	return list, nil
}

// join appends an extent, or lengthens the last one by it.
func join(list []store.Extent, e store.Extent) []store.Extent {
	if n := len(list) - 1; n >= 0 {
		l := list[n]
		if l.Data == e.Data && l.Zero == e.Zero && l.Depth == e.Depth && l.Changed == e.Changed {
			list[n].Length += e.Length
			return list
		}
	}
	return append(list, e)
}

// Extents lists the runs of a range. fn may use the device.
func (d *device) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	if d.closed.Load() {
		return d.fail("extents of", store.ErrClosed)
	}
	if err := d.h.enter(); err != nil {
		return d.fail("extents of", err)
	}
	err := d.h.inside(off, length)
	d.h.leave()
	if err == nil {
		err = d.s.extents(context.Background(), d.h, base, off, length, fn)
	}
	return d.fail("extents of", err)
}

func (s *Store) extents(ctx context.Context, h *handle, base store.ID, off, length int64, fn func(store.Extent) bool) error {
	var from *handle
	if base != "" {
		var err error
		if from, err = s.holdBase(ctx, base, h.obj); err != nil {
			return err
		}
	}
	err := scanAll(h, from, off, length, fn)
	if from != nil {
		err = errors.Join(err, s.drop(from, false))
	}
	return err
}

// holdBase holds the snapshot that a comparison starts from.
func (s *Store) holdBase(ctx context.Context, base store.ID, obj meta.Object) (*handle, error) {
	return s.hold(ctx, base, false, func(st *meta.State) (meta.Object, error) {
		from, err := st.Find(base, store.KindSnapshot)
		if err != nil {
			return from, fmt.Errorf("base: %w", err)
		}
		if from.Image.ID != obj.Image.ID || obj.Snap != nil && from.Snap.Seq > obj.Snap.Seq {
			return from, fmt.Errorf("snapshot %q is not in the history of %q: %w", from.Ref(), obj.Ref(), store.ErrInvalid)
		}
		return from, nil
	})
}

// scanAll calls fn for the extents of a range, outside of any lock.
func scanAll(h, base *handle, off, length int64, fn func(store.Extent) bool) error {
	var c *scan
	var list []store.Extent
	for c == nil || c.off < c.end {
		var more []store.Extent
		err := both(h, base, func() (err error) {
			if c == nil {
				if c, err = newScan(h, base, off, off+length); err != nil {
					return err
				}
			}
			more, err = c.next()
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range more {
			list = join(list, e)
		}
		for ; len(list) > 1; list = list[1:] {
			if !fn(list[0]) {
				return nil
			}
		}
	}
	if len(list) == 1 {
		fn(list[0])
	}
	return nil
}

// both enters two handles, the second of which may be nil.
func both(h, base *handle, fn func() error) error {
	if err := h.enter(); err != nil {
		return err
	}
	defer h.leave()
	if base != nil {
		if err := base.enter(); err != nil {
			return err
		}
		defer base.leave()
	}
	return fn()
}

// Diff lists what changed in "to" since "from". fn may use the store.
func (s *Store) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("diff of %q: %w", to, err)
	}
	h, err := s.hold(ctx, to, false, func(st *meta.State) (meta.Object, error) { return st.Find(to, "") })
	s.end()
	if err != nil {
		return fmt.Errorf("diff of %q: %w", to, err)
	}
	var stop error
	err = s.extents(ctx, h, from, 0, h.size.Load(), func(e store.Extent) bool {
		if from != "" && e.Changed || from == "" && e.Data {
			if stop = fn(e); stop == nil {
				stop = ctx.Err()
			}
		}
		return stop == nil
	})
	if err = errors.Join(err, s.drop(h, false)); err != nil {
		return fmt.Errorf("diff of %q: %w", to, classify(err))
	}
	return stop
}
