package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/strata-csi/strata/pkg/store"
)

// ending says what happens to the store while a step is under way.
type ending int

const (
	endNone  ending = iota
	endCrash        // the process ends, the machine stays up
	endClose        // the store is closed and opened again
)

// step is one structural operation with writers, and a reader, at the same time.
type step struct {
	action  action
	ending  ending
	writers []*writer
	reader  *reader
	err     error         // of the structural operation
	closed  error         // of Close
	late    bool          // writes are held when the disk has them, rather than before
	acted   chan struct{} // closed when the structural operation has ended
	met     []int         // writers under way when the structural operation, and the ending, began
}

// step runs one step and brings the oracle to what happened. It tells whether the
// store was closed or crashed.
func (w *world) step() (ended bool, err error) {
	st, err := w.planStep()
	if err != nil {
		return false, err
	}
	w.n.steps.Add(1)
	w.tell("%s%s; writers: %s", st.action.label(), []string{"", ", crash", ", close"}[st.ending], st.who())
	if err := w.perform(st); err != nil {
		return false, err
	}
	w.countStep(st)
	if err := w.judge(st); err != nil {
		return false, err
	}
	if err := st.judgeMeetings(); err != nil {
		return false, err
	}
	w.n.overlapped.Add(1)
	return st.ending != endNone, w.resolve(st)
}

func (st *step) who() string {
	text := ""
	for _, wr := range st.writers {
		text += fmt.Sprintf("%s[blocks %d-%d] ", wr.t.ref(), wr.off/blk, (wr.off+wr.length)/blk-1)
	}
	return text
}

func (w *world) planStep() (*step, error) {
	st := &step{action: w.planAction(), acted: make(chan struct{})}
	switch w.rng.IntN(24) {
	case 0, 1:
		st.ending = endCrash
	case 2:
		st.ending = endClose
	}
	st.late = w.rng.IntN(2) == 0
	for _, t := range st.action.closes() {
		if err := w.close(t); err != nil {
			return nil, err
		}
	}
	if err := w.planWriters(st); err != nil {
		return nil, err
	}
	return st, w.planReader(st)
}

// planWriters places two or three writers, on the target of the structural operation
// where that is allowed, and on others. Their windows never meet.
func (w *world) planWriters(st *step) error {
	target := st.action.target()
	for i := range 2 + w.rng.IntN(2) {
		t := w.pickImage(st.action.closes()...)
		if target != nil && (i == 0 && w.rng.IntN(5) > 0 || i == 1 && w.rng.IntN(2) == 0) {
			t = target
		}
		off, length := w.window(st, t)
		if length == 0 {
			continue
		}
		if err := w.open(t); err != nil {
			return err
		}
		wr := w.newWriter(st, t, off, length)
		if _, err := t.twin.ReadAt(wr.before, off); err != nil {
			return fmt.Errorf("read the oracle's %s: %w", t.ref(), err)
		}
		st.writers = append(st.writers, wr)
	}
	if len(st.writers) < together {
		return fmt.Errorf("%d writers found room: the harness is wrong", len(st.writers))
	}
	return nil
}

// newWriter plans a writer. The first two are held when the structural operation begins,
// and again when the step is cut short.
func (w *world) newWriter(st *step, t *thing, off, length int64) *writer {
	wr := &writer{
		t: t, off: off, length: length, before: make([]byte, length),
		rng:   rand.New(rand.NewPCG(w.rng.Uint64(), uint64(len(st.writers)))),
		ready: make(chan struct{}), start: make(chan struct{}), again: make(chan bool, 1), gone: make(chan struct{}),
	}
	warm, more := w.rng.IntN(3), w.rng.IntN(20)
	wr.ahead = warm + more
	if len(st.writers) < together {
		wr.meets, wr.ahead = []int{warm}, -1
		if st.ending != endNone {
			wr.meets = append(wr.meets, warm+1+more)
		}
	}
	wr.least = warm + more + 1 + w.rng.IntN(12)
	return wr
}

// window finds free blocks of an image, away from what the structural operation cuts.
func (w *world) window(st *step, t *thing) (off, length int64) {
	limit := t.size
	if t == st.action.target() {
		limit = min(limit, st.action.bound())
	}
	blocks := limit / blk
	for range 50 {
		n := min(pick(w.rng, []int64{1, 4, 8, 16, 64}), max(1, blocks/4))
		off = w.rng.Int64N(blocks-n+1) * blk
		switch w.rng.IntN(4) { // two places are hot
		case 0:
			off = w.rng.Int64N(min(blocks-n, 8)+1) * blk
		case 1:
			off = (blocks - n - w.rng.Int64N(min(blocks-n, 8)+1)) * blk
		}
		free := true
		for _, other := range st.writers {
			if other.t == t && off < other.off+other.length && other.off < off+n*blk {
				free = false
			}
		}
		if free {
			return off, n * blk
		}
	}
	return 0, 0
}

// planReader lets somebody read a view that the step does not change: a snapshot that
// is not being removed, or an image without writers.
func (w *world) planReader(st *step) error {
	busy := append(st.action.closes(), st.action.target())
	for _, wr := range st.writers {
		busy = append(busy, wr.t)
	}
	t := w.pickImage(busy...)
	var quiet []*thing
	for _, s := range w.snaps {
		gone := false
		for _, b := range busy {
			gone = gone || b == s
		}
		if !gone {
			quiet = append(quiet, s)
		}
	}
	if len(quiet) > 0 && (t == nil || w.rng.IntN(3) > 0) {
		t = pick(w.rng, quiet)
	}
	if t == nil {
		return nil
	}
	want, err := readRange(w.ctx, w.oracle, t.model, 0, t.size)
	if err != nil {
		return fmt.Errorf("read the oracle's %s: %w", t.ref(), err)
	}
	dev, err := w.real.Open(w.ctx, t.real)
	if err != nil {
		return fmt.Errorf("open %s: %w", t.ref(), err)
	}
	st.reader = &reader{t: t, dev: dev, want: want, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 9))}
	return nil
}

func (w *world) countStep(st *step) {
	for _, wr := range st.writers {
		w.count(wr.acked.Load())
	}
	w.count(1)
	if st.reader != nil {
		w.count(st.reader.n)
	}
}

// judge looks at the errors: none are allowed unless the store ended meanwhile, and a
// wrong answer never is.
func (w *world) judge(st *step) error {
	errs := []error{st.err}
	for _, wr := range st.writers {
		errs = append(errs, wr.err)
	}
	if st.reader != nil {
		errs = append(errs, st.reader.err)
	}
	for _, err := range errs {
		switch {
		case err == nil:
		case st.ending == endNone, errors.Is(err, errWrong):
			return err
		case st.ending == endClose && !errors.Is(err, store.ErrClosed):
			return fmt.Errorf("a call that Close interrupted: %w", err)
		}
	}
	if st.closed != nil {
		return fmt.Errorf("close: %w", st.closed)
	}
	return nil
}
