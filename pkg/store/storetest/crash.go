package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Disk is a Machine whose disk can stop, fail, and lose what was not synced. A change
// is any operation that alters the disk or makes an alteration durable.
type Disk interface {
	Machine
	// StopAt makes the k-th change from now on, counted from 1, and every later one
	// fail without effect, until Crash or PowerCut. 0 stops nothing.
	StopAt(k int64)
	// FailAt makes only the k-th change from now on fail without effect. 0 fails none.
	FailAt(k int64)
	// Hit tells whether that change was reached.
	Hit() bool
	// PowerCut ends the process as Crash does, and the page cache with it: what was
	// not synced is kept, torn or lost as rng decides, or all lost if rng is nil.
	PowerCut(rng *rand.Rand) error
}

// LoopOptions says how much the crash and fault loops do. Zero values mean defaults.
type LoopOptions struct {
	// Programs is how many random programs are run; default 3.
	Programs int
	// Length is the number of calls in each program; default 40.
	Length int
	// Stride is the step from one k to the next; default 1: every change.
	Stride int64
	// Timeout bounds one run of a program; default 1 minute.
	Timeout time.Duration
}

func (o LoopOptions) filled() LoopOptions {
	if o.Programs == 0 {
		o.Programs = 3
	}
	if o.Length == 0 {
		o.Length = 40
	}
	if o.Stride == 0 {
		o.Stride = 1
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	return o
}

// fate is what befalls a store in a loop.
type fate int

const (
	fateCrash    fate = iota // the disk stops, the process ends, the cache stays
	fateLoseAll              // the disk stops, then nothing unsynced survives
	fateLoseSome             // the disk stops, then a random part survives
	fateFault                // one change fails, and life goes on
)

func (f fate) String() string {
	return []string{"process crash", "power cut", "power cut with random survival", "fault"}[f]
}

// CrashLoop runs a program on a disk that stops at its first change, its second, and
// so on until the program ends before the disk does; each time by a process crash, by
// a power cut that loses everything unsynced, and by one that loses a random part.
// After each it requires that the store opens and checks clean, that every object whose
// creation was answered exists and every one whose removal was answered does not; that
// after a process crash all answered writes are there, and after a power cut all that a
// Flush was answered for; that sectors written since are old or new; that snapshots
// show exactly what they were made of; and that the store can be used again.
func CrashLoop(t *testing.T, disk func(t *testing.T) Disk, o LoopOptions) {
	loop(t, disk, o, fateCrash, fateLoseAll, fateLoseSome)
}

// FaultLoop runs a program and lets its first change fail, its second, and so on. Each
// time the fault must surface as an error or be harmless: all that was answered is
// there, also after closing and opening, and the store checks clean.
func FaultLoop(t *testing.T, disk func(t *testing.T) Disk, o LoopOptions) {
	loop(t, disk, o, fateFault)
}

func loop(t *testing.T, disk func(t *testing.T) Disk, o LoopOptions, fates ...fate) {
	o = o.filled()
	first, programs := baseSeed(t), o.Programs
	if os.Getenv(SeedVariable) != "" {
		programs = 1
	}
	for _, f := range fates {
		runs, errs := int64(0), int64(0)
		for i := range programs {
			seed := first + uint64(i)
			n, surfaced, err := rounds(func() Disk { return disk(t) }, seed, f, o)
			if err != nil {
				t.Fatalf("%s=%d: %s %v", SeedVariable, seed, f, err)
			}
			runs, errs = runs+n, errs+surfaced
		}
		t.Logf("%s: programs=%d runs=%d errors-surfaced=%d stride=%d", f, programs, runs, errs, o.Stride)
	}
}

// rounds runs one program again and again until it is not hit any more.
func rounds(disk func() Disk, seed uint64, f fate, o LoopOptions) (runs, surfaced int64, err error) {
	o = o.filled()
	for k := int64(1); ; k += o.Stride {
		hit, errs, err := round(disk(), seed, k, f, o)
		runs, surfaced = runs+1, surfaced+errs
		if err != nil {
			return runs, surfaced, fmt.Errorf("at change %d: %w", k, err)
		}
		if !hit {
			return runs, surfaced, nil
		}
	}
}

// round runs the program once, with the fate striking at the k-th change.
func round(d Disk, seed uint64, k int64, f fate, o LoopOptions) (hit bool, errs int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
	defer cancel()
	s, err := d.Open()
	if err != nil {
		return false, 0, fmt.Errorf("open the new store: %w", err)
	}
	if f == fateFault {
		d.FailAt(k)
	} else {
		d.StopAt(k)
	}
	l := &ledger{ctx: ctx, s: s, rng: rand.New(rand.NewPCG(seed, 11)), hit: d.Hit, goOn: f == fateFault}
	if err := l.run(o.Length); err != nil {
		return true, l.errs, l.tell(err)
	}
	if hit, s, err = strike(d, s, f, rand.New(rand.NewPCG(seed, uint64(k)))); err != nil {
		return hit, l.errs, l.tell(err)
	}
	l.s, l.lost = s, f == fateLoseAll || f == fateLoseSome
	if err := l.verify(); err != nil {
		return hit, l.errs, l.tell(fmt.Errorf("after the %s: %w", f, err))
	}
	return hit, l.errs, l.tell(l.finish(d))
}

// strike ends the store as the fate has it, and opens it again. It tells whether the
// change was reached by then.
func strike(d Disk, s store.Full, f fate, rng *rand.Rand) (hit bool, _ store.Full, err error) {
	hit = d.Hit()
	switch f {
	case fateCrash:
		err = crash(d, s)
	case fateLoseAll:
		err = d.PowerCut(nil)
	case fateLoseSome:
		err = d.PowerCut(rng)
	case fateFault:
		if err = s.Close(); d.Hit() {
			hit, err = true, nil // it may surface here
		}
	}
	if err != nil {
		return hit, nil, err
	}
	d.FailAt(0)
	next, err := d.Open()
	if err != nil {
		return hit, nil, fmt.Errorf("open after the %s: %w", f, err)
	}
	return hit, next, nil
}

// finish requires that the store can be used, closed and opened, and still shows the
// same.
func (l *ledger) finish(d Disk) error {
	if err := l.use(); err != nil {
		return fmt.Errorf("using the store again: %w", err)
	}
	if err := l.settle(); err != nil {
		return fmt.Errorf("waiting for jobs: %w", err)
	}
	if err := l.s.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s, err := d.Open()
	if err != nil {
		return fmt.Errorf("open for the last time: %w", err)
	}
	l.s = s
	return errors.Join(l.verify(), l.s.Close())
}

// settle waits for background jobs. After a fault, those in which it surfaces, as a
// layer that may not be written any more, are cancelled.
func (l *ledger) settle() error {
	for {
		err := settle(l.ctx, l.s)
		if err == nil || !l.goOn || !errors.Is(err, errStuck) {
			return err
		}
		if err := l.dropFailed(); err != nil {
			return err
		}
	}
}

// dropFailed cancels the jobs in which a fault surfaced.
func (l *ledger) dropFailed() error {
	jobs, err := l.s.Jobs(l.ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		if j.State != store.JobFailed {
			continue
		}
		l.errs++
		if err := l.s.CancelJob(l.ctx, j.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("cancel the failed %s job of %s: %w", j.Kind, j.Target, err)
		}
	}
	return nil
}
