package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// together is how many writers are under way whenever a structural operation begins.
const together = 2

// patience is how long writers are waited for to be held together, at first. It decides
// nothing: when it ends they are let go and try again.
const patience = 50 * time.Millisecond

// errAlone says that a structural operation met fewer writers than it must.
var errAlone = errors.New("not enough writers under way")

// perform runs the goroutines of a step to their end.
func (w *world) perform(st *step) error {
	g := &stage{gate: w.gate, begun: make(chan struct{}), over: make(chan struct{})}
	if g.gate == nil {
		g.gate, g.door = &Gate{}, true
	}
	defer context.AfterFunc(w.ctx, g.gate.release)()
	var all sync.WaitGroup
	for _, wr := range st.writers {
		all.Go(func() { wr.run(g) })
	}
	if st.reader != nil {
		all.Go(func() { st.reader.run(g) })
	}
	err := w.meet(st, g)
	if err != nil {
		close(g.begun)
	} else {
		all.Go(func() { w.act(st, g) })
		err = w.finish(st, g)
	}
	close(g.over)
	all.Wait()
	if err == nil && st.ending == endNone && st.reader != nil {
		err = st.reader.dev.Close()
	}
	return err
}

// meet waits until the first writers are held with a write each.
func (w *world) meet(st *step, g *stage) error {
	held := st.writers[:together]
	for wait := patience; ; wait *= 2 {
		var marks [][]byte
		for _, wr := range held {
			select {
			case <-wr.ready:
			case <-wr.gone:
				return fmt.Errorf("before %s: %w", st.action.label(), wr.err)
			case <-w.ctx.Done():
				return fmt.Errorf("waiting for %s: %w", wr.t.ref(), w.ctx.Err())
			}
			marks = append(marks, wr.mark)
		}
		arrived := g.gate.shut(st.late, marks)
		for _, wr := range held {
			wr.start <- struct{}{}
		}
		timer := time.NewTimer(wait)
		met := false
		select {
		case <-arrived:
			met = true
		case <-timer.C: // one waits for something that waits for the other
			w.n.parted.Add(1)
			g.gate.release()
		}
		timer.Stop()
		for _, wr := range held {
			wr.again <- !met
		}
		if met {
			return nil
		}
	}
}

// begin is called when a structural operation, or the end of the store, has begun: it
// looks who is under way and lets them go on.
func (st *step) begin(g *stage) {
	under := 0
	for _, wr := range st.writers {
		// In this order a writer that goes on meanwhile is not taken for one under way.
		if begun := wr.begun.Load(); begun > wr.acked.Load() {
			under++
		}
	}
	st.met = append(st.met, under)
	g.gate.release()
}

// act runs the structural operation and notes how far the writers were. It has begun
// when it looks at its context, or has returned without doing so.
func (w *world) act(st *step, g *stage) {
	begun := sync.OnceFunc(func() {
		st.begin(g)
		close(g.begun)
	})
	for _, wr := range st.writers {
		wr.low = wr.acked.Load()
	}
	st.err = st.action.run(noticing{w.ctx, begun}, w)
	for _, wr := range st.writers {
		wr.high = wr.begun.Load()
	}
	begun()
	close(st.acted)
}

// finish waits for the structural operation, or ends the store while it may still be
// going on.
func (w *world) finish(st *step, g *stage) error {
	if st.ending == endNone {
		<-st.acted
		return nil
	}
	<-g.begun
	if err := w.meet(st, g); err != nil {
		return err
	}
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if st.ending == endCrash {
			err = crash(w.m, w.real)
		} else {
			st.closed = w.real.Close()
		}
	}()
	for ended := false; !ended; runtime.Gosched() {
		select {
		case <-done:
			ended = true
		default: // it has begun when the store lets nobody in
			_, now := w.real.Stat(w.ctx, st.writers[0].t.real)
			ended = errors.Is(now, store.ErrClosed)
		}
	}
	st.begin(g)
	<-done
	return err
}

// judgeMeetings requires that enough writers were under way when the structural
// operation began, and when the store was ended.
func (st *step) judgeMeetings() error {
	want := 1
	if st.ending != endNone {
		want = 2
	}
	if len(st.met) != want {
		return fmt.Errorf("%w: %s: %d beginnings were seen, want %d", errAlone, st.action.label(), len(st.met), want)
	}
	for i, under := range st.met {
		if under < together {
			what := []string{st.action.label(), []string{"", "the crash", "the close"}[st.ending]}[i]
			return fmt.Errorf("%w: %d when %s began, want %d", errAlone, under, what, together)
		}
	}
	return nil
}
