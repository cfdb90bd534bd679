package storetest

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// end brings a program to its end: background work finishes, depths keep the policy,
// space adds up, everything is removed in random order, and nothing is left.
func (w *world) end() error {
	w.tell("the end: settle, compare, reopen, remove all")
	for _, t := range w.images {
		if err := w.close(t); err != nil {
			return err
		}
	}
	if err := settle(w.ctx, w.real); err != nil {
		return fmt.Errorf("waiting for jobs: %w", err)
	}
	if err := w.compare(); err != nil {
		return fmt.Errorf("with background work done: %w", err)
	}
	if err := w.wantSettled(); err != nil {
		return err
	}
	if err := w.restart(); err != nil {
		return err
	}
	if err := w.compare(); err != nil {
		return fmt.Errorf("after closing and opening: %w", err)
	}
	if err := w.removeAll(); err != nil {
		return err
	}
	if err := w.real.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

func (w *world) restart() error {
	if err := w.real.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s, err := w.m.Open()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.real = s
	w.n.reopens.Add(1)
	return nil
}

// wantSettled checks what holds when no job is left: depths and accounts.
func (w *world) wantSettled() error {
	for _, t := range append(append([]*thing(nil), w.images...), w.snaps...) {
		info, err := w.real.Stat(w.ctx, t.real)
		if err != nil {
			return fmt.Errorf("stat %s: %w", t.ref(), err)
		}
		if info.Depth > t.kin.soft && t.kind == store.KindImage {
			return fmt.Errorf("%w: %s has depth %d above soft limit %d", errWrong, t.ref(), info.Depth, t.kin.soft)
		}
		u, err := w.real.Usage(w.ctx, t.real)
		if err != nil {
			return fmt.Errorf("usage of %s: %w", t.ref(), err)
		}
		want, err := readRange(w.ctx, w.oracle, t.model, 0, t.size)
		if err != nil {
			return fmt.Errorf("read the oracle's: %w", err)
		}
		visible := int64(0)
		for at := int64(0); at < t.size; at += blk {
			if !isZero(want[at : at+blk]) {
				visible += blk
			}
		}
		if u.Own+u.Shared < visible || u.Retained > u.Own+u.Shared || u.Own < 0 || u.Retained < 0 || u.Size != t.size {
			return fmt.Errorf("%w: usage of %s is %+v, %d bytes are visible", errWrong, t.ref(), u, visible)
		}
	}
	return nil
}

// removeAll removes every object in random order and looks at the rest on the way.
func (w *world) removeAll() error {
	left := append(append([]*thing(nil), w.images...), w.snaps...)
	w.rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	for i, t := range left {
		a := &removeAction{t: t}
		if err := a.run(w.ctx, w); err != nil {
			return fmt.Errorf("%s: %w", a.label(), err)
		}
		if err := a.mirror(w); err != nil {
			return err
		}
		if i == len(left)/2 {
			if err := w.compare(); err != nil {
				return fmt.Errorf("with %d objects removed at the end: %w", i+1, err)
			}
		}
	}
	w.count(int64(len(left)))
	if err := settle(w.ctx, w.real); err != nil {
		return fmt.Errorf("waiting for jobs: %w", err)
	}
	if err := w.compare(); err != nil {
		return fmt.Errorf("with everything removed: %w", err)
	}
	status, err := w.real.Status(w.ctx)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if status.Images != 0 || status.Snapshots != 0 || status.Layers != 0 {
		return fmt.Errorf("%w: with everything removed, status is %+v", errWrong, status)
	}
	return nil
}
