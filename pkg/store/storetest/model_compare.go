package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// compare requires that both stores show the same: the same objects, every byte of
// them, their lineage and their differences, and that the store checks clean.
func (w *world) compare() error {
	if err := w.compareNames(); err != nil {
		return err
	}
	for _, t := range append(append([]*thing(nil), w.images...), w.snaps...) {
		if err := w.compareView(t); err != nil {
			return fmt.Errorf("%s: %w", t.ref(), err)
		}
		if err := w.compareLineage(t); err != nil {
			return fmt.Errorf("%s: %w", t.ref(), err)
		}
	}
	if err := w.compareDiffs(); err != nil {
		return err
	}
	return w.check()
}

func (w *world) check() error {
	problems, err := w.real.Check(w.ctx, true)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	for _, p := range problems {
		return fmt.Errorf("%w: check finds %d problems, the first %s: %s (harmless: %v)",
			errWrong, len(problems), p.Object, p.Text, p.Harmless)
	}
	return nil
}

// compareNames requires that the same names lead to the same objects.
func (w *world) compareNames() error {
	known := make(map[store.ID]*thing)
	for _, t := range append(append([]*thing(nil), w.images...), w.snaps...) {
		known[t.real] = t
	}
	seen := 0
	err := w.real.Walk(w.ctx, func(i store.Info) error {
		seen++
		t := known[i.ID]
		if t == nil || i.Ref() != t.ref() || i.Kind != t.kind || i.ImageRemoved == t.kin.live {
			return fmt.Errorf("%w: walk finds %+v", errWrong, i)
		}
		if i.Kind == store.KindImage && i.Snapshots != t.kin.snaps {
			return fmt.Errorf("%w: %s counts %d snapshots, want %d", errWrong, i.Name, i.Snapshots, t.kin.snaps)
		}
		return nil
	})
	if err == nil && seen != len(known) {
		return fmt.Errorf("%w: walk finds %d objects, want %d", errWrong, seen, len(known))
	}
	return err
}

// compareView compares every byte, and what the extents say about them.
func (w *world) compareView(t *thing) error {
	want, err := readRange(w.ctx, w.oracle, t.model, 0, t.size)
	if err != nil {
		return fmt.Errorf("read the oracle's: %w", err)
	}
	d, err := w.real.Open(w.ctx, t.real)
	if err != nil {
		return err
	}
	defer d.Close()
	if got := d.Info().Size; got != t.size {
		return fmt.Errorf("%w: size %d, want %d", errWrong, got, t.size)
	}
	const chunk = 512 * kib
	for off := int64(0); off < t.size; off += chunk {
		o := op{kind: opRead, off: off, length: min(chunk, t.size-off)}
		if err := o.do(d, want, 0); err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
	}
	w.n.compared.Add(t.size)
	return op{kind: opExtents, length: t.size}.do(d, want, 0)
}

// compareLineage requires that parent, depth and overlap are those of the oracle, or
// of a chain from which only what was removed, or cut by a flatten of the store's own,
// is missing.
func (w *world) compareLineage(t *thing) error {
	got, err := w.real.Stat(w.ctx, t.real)
	if err != nil {
		return err
	}
	want, err := w.oracle.Stat(w.ctx, t.model)
	if err != nil {
		return fmt.Errorf("ask the oracle: %w", err)
	}
	wrong := func(why string) error {
		return fmt.Errorf("%w: lineage: %s: %+v, the oracle has %+v", errWrong, why, got, want)
	}
	flat := got.Depth == 0
	switch {
	case got.Size != want.Size:
		return wrong("size")
	case got.Depth > want.Depth:
		return wrong("depth is larger")
	case got.Overlap > want.Overlap || got.Overlap > got.Size:
		return wrong("overlap is larger")
	case flat != (got.Parent == "") || flat != (got.Overlap == 0) || flat != (got.ParentName == ""):
		return wrong("depth, parent and overlap contradict each other")
	}
	least, mayBeCut := 0, !w.exact
	parent := (*kin)(nil)
	for k := t.kin; k.parent != nil; k = k.parent {
		mayBeCut = mayBeCut || k.flat
		if k.parent.live || k.parent.snaps > 0 {
			least++
		}
		if parent == nil && k.parent.real == got.Parent {
			parent = k.parent
		}
		if parent == nil && !mayBeCut && (k.parent.live || k.parent.snaps > 0) {
			return wrong(fmt.Sprintf("parent %s was skipped", k.parent.name))
		}
	}
	switch {
	case !mayBeCut && got.Depth < least:
		return wrong(fmt.Sprintf("depth is smaller than the %d parents that were not removed", least))
	case !flat && parent == nil:
		return wrong("the parent is no ancestor")
	case !flat && parent == t.kin.parent && slices.Contains(w.snaps, t.kin.via) && got.Overlap != want.Overlap:
		return wrong("overlap") // with the snapshot removed, the clone may own part of what it saw
	}
	return nil
}

// compareDiffs takes some pairs of moments of one image and requires that the diff
// names every block whose bytes differ.
func (w *world) compareDiffs() error {
	for range 4 {
		if len(w.snaps) == 0 {
			return nil
		}
		from := pick(w.rng, w.snaps)
		to := pick(w.rng, w.snaps)
		for _, t := range w.images {
			if t.kin == from.kin && w.rng.IntN(2) == 0 {
				to = t
			}
		}
		if from.kin != to.kin || from == to {
			continue
		}
		err := w.oracle.Diff(w.ctx, from.model, to.model, func(store.Extent) error { return nil })
		if errors.Is(err, store.ErrInvalid) {
			continue // not in its history
		}
		if err := w.compareDiff(from, to); err != nil {
			return fmt.Errorf("diff from %s to %s: %w", from.ref(), to.ref(), err)
		}
		w.n.diffs.Add(1)
	}
	return nil
}

func (w *world) compareDiff(from, to *thing) error {
	old, err := readRange(w.ctx, w.oracle, from.model, 0, from.size)
	if err != nil {
		return fmt.Errorf("read the oracle's: %w", err)
	}
	now, err := readRange(w.ctx, w.oracle, to.model, 0, to.size)
	if err != nil {
		return fmt.Errorf("read the oracle's: %w", err)
	}
	copied := make([]byte, to.size)
	copy(copied, old)
	next := int64(0)
	err = w.real.Diff(w.ctx, from.real, to.real, func(e store.Extent) error {
		end := e.Offset + e.Length
		if e.Offset < next || e.Length <= 0 || end > to.size {
			return fmt.Errorf("%w: extent %+v comes after %d", errWrong, e, next)
		}
		next = end
		if e.Zero && !isZero(now[e.Offset:end]) {
			return fmt.Errorf("%w: extent %+v is not zero", errWrong, e)
		}
		copy(copied[e.Offset:end], now[e.Offset:end])
		return nil
	})
	if err != nil {
		return err
	}
	if why := difference(copied, now); why != "" {
		return fmt.Errorf("%w: the old state with the diff applied is not the new one: %s", errWrong, why)
	}
	return nil
}
