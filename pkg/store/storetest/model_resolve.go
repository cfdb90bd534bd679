package storetest

import (
	"bytes"
	"fmt"
)

// resolve brings the oracle to what happened in a step. Writers and the structural
// operation ran at the same time, but touch different blocks, so only one question is
// open: how far each writer was when a view was frozen. The view's own bytes tell.
func (w *world) resolve(st *step) error {
	happened := st.err == nil
	if st.ending != endNone {
		if err := w.reopened(st); err != nil {
			return err
		}
		if !happened {
			var err error
			if happened, err = st.action.happened(w); err != nil {
				return fmt.Errorf("looking for the outcome of %s: %w", st.action.label(), err)
			}
		}
	}
	done := make([]int64, len(st.writers)) // operations the oracle has
	if happened {
		if err := w.freeze(st, done); err != nil {
			return err
		}
		if err := st.action.mirror(w); err != nil {
			return fmt.Errorf("%s: %w", st.action.label(), err)
		}
	}
	for i, wr := range st.writers {
		if err := w.open(wr.t); err != nil {
			return err
		}
		if err := wr.replay(done[i], wr.acked.Load()); err != nil {
			return err
		}
		if wr.begun.Load() > wr.acked.Load() {
			w.n.inflight.Add(1)
			if err := w.adopt(wr); err != nil {
				return err
			}
		}
	}
	return nil
}

// reopened opens the store after its end; devices of before are gone.
func (w *world) reopened(st *step) error {
	for _, t := range w.images {
		t.dev = nil
		if t.twin != nil {
			t.twin.Close() // never fails
			t.twin = nil
		}
	}
	s, err := w.m.Open()
	if err != nil {
		return fmt.Errorf("open after %s: %w", st.action.label(), err)
	}
	w.real = s
	if st.ending == endCrash {
		w.n.crashes.Add(1)
	} else {
		w.n.reopens.Add(1)
	}
	return nil
}

// freeze finds, for each writer on the target, the operations that the new view has,
// and gives them to the oracle before the view is made there.
func (w *world) freeze(st *step, done []int64) error {
	view, err := st.action.view(w)
	if err != nil || view == "" {
		return err
	}
	for i, wr := range st.writers {
		if wr.t != st.action.target() {
			continue
		}
		got, err := readRange(w.ctx, w.real, view, wr.off, wr.length)
		if err != nil {
			return fmt.Errorf("read the new view of %s: %w", wr.t.ref(), err)
		}
		if done[i], err = wr.cut(got); err != nil {
			return fmt.Errorf("%s under writes: %w", st.action.label(), err)
		}
		if err := w.open(wr.t); err != nil {
			return err
		}
		if err := wr.replay(0, done[i]); err != nil {
			return err
		}
		if err := wr.give(got); err != nil { // half of a zero or discard, perhaps
			return err
		}
	}
	return nil
}

// cut finds the prefix of the writer's operations that the window of a view shows. It
// must have all that were answered before the view was asked for, and none that was
// begun after it had been made. A write that was under way is in it wholly or not at
// all; a zero or discard, which may be long, may be in it half.
func (wr *writer) cut(got []byte) (int64, error) {
	win := bytes.Clone(wr.before)
	for n := int64(0); ; n++ {
		if n >= wr.low && bytes.Equal(win, got) {
			return n, nil
		}
		if n == wr.high {
			break
		}
		before := bytes.Clone(win)
		o := wr.ops[n]
		o.apply(win, wr.off)
		if n >= wr.low && o.kind != opWrite && o.mutates() && mixed(got, before, win) == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: writer on %s at %d had %d operations answered before and %d begun at the end; no prefix "+
		"from %d to %d gives what the view shows; with all of them: %s; the operations: %v",
		errWrong, wr.t.ref(), wr.off, wr.low, wr.high, wr.low, wr.high, difference(got, win), wr.ops[:wr.high])
}

// give makes the oracle's window show the given bytes.
func (wr *writer) give(want []byte) error {
	has := make([]byte, wr.length)
	if _, err := wr.t.twin.ReadAt(has, wr.off); err != nil {
		return fmt.Errorf("read the oracle's %s: %w", wr.t.ref(), err)
	}
	for at := int64(0); at < wr.length; at += blk {
		if bytes.Equal(want[at:at+blk], has[at:at+blk]) {
			continue
		}
		if _, err := wr.t.twin.WriteAt(want[at:at+blk], wr.off+at); err != nil {
			return fmt.Errorf("the oracle refuses: %w", err)
		}
	}
	return nil
}

// replay carries operations out on the oracle.
func (wr *writer) replay(from, to int64) error {
	for _, o := range wr.ops[min(from, to):to] {
		if !o.mutates() {
			continue
		}
		if err := o.do(wr.t.twin, nil, 0); err != nil {
			return fmt.Errorf("the oracle refuses %s: %w", o, err)
		}
	}
	return nil
}

// adopt settles the one operation of a writer that was not answered: each sector of it
// is as before or as after, and the oracle takes what is there.
func (w *world) adopt(wr *writer) error {
	o := wr.ops[wr.acked.Load()]
	if !o.mutates() {
		return nil
	}
	before := bytes.Clone(wr.before)
	for _, done := range wr.ops[:wr.acked.Load()] {
		done.apply(before, wr.off)
	}
	after := bytes.Clone(before)
	o.apply(after, wr.off)
	got := make([]byte, wr.length)
	if _, err := wr.t.dev.ReadAt(got, wr.off); err != nil {
		return fmt.Errorf("read %s: %w", wr.t.ref(), err)
	}
	if err := mixed(got, before, after); err != nil {
		return fmt.Errorf("%s was interrupted: %w; %s", o, err, wr.explain(got, before, after))
	}
	return wr.give(got)
}

// mixed requires that every sector of got is that of before or that of after.
func mixed(got, before, after []byte) error {
	const sector = 512
	for at := 0; at < len(got); at += sector {
		s := got[at : at+sector]
		if !bytes.Equal(s, before[at:at+sector]) && !bytes.Equal(s, after[at:at+sector]) {
			return fmt.Errorf("%w: the sector at %d of its window is neither old nor new", errWrong, at)
		}
	}
	return nil
}

// explain tells which state of the window each block shows that is neither old nor new.
func (wr *writer) explain(got, before, after []byte) string {
	text := fmt.Sprintf("%d operations were answered: %v; ", wr.acked.Load(), wr.ops)
	for at := int64(0); at < wr.length; at += blk {
		b := got[at : at+blk]
		if mixed(b, before[at:at+blk], after[at:at+blk]) == nil {
			continue
		}
		text += fmt.Sprintf("block %d", (wr.off+at)/blk)
		if isZero(b) {
			text += " is zero"
		}
		win := bytes.Clone(wr.before)
		for n := 0; ; n++ {
			if bytes.Equal(b, win[at:at+blk]) {
				text += fmt.Sprintf(" is as after %d", n)
			}
			if n == len(wr.ops) {
				break
			}
			wr.ops[n].apply(win, wr.off)
		}
		text += "; "
	}
	return text
}
