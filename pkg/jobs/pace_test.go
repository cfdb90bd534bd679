package jobs

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// timed runs fn as a job and tells how long it took.
func timed(t *testing.T, q *Queue, s *stage, urgent bool, fn func(ctx context.Context, task *Task) error) time.Duration {
	t.Helper()
	s.onRun = fn
	start := time.Now()
	waitNil(t, q, add(t, q, store.JobFlatten, "timed", urgent).ID)
	return time.Since(start)
}

func wantAbout(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := math.Abs(float64(got - want)); d > float64(want)/8 {
		t.Errorf("%s took %v, want about %v", what, got, want)
	}
}

func TestByteRate(t *testing.T) {
	inBubble(t, Options{BytesPerSecond: 1 << 20}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		move := func(ctx context.Context, task *Task) error {
			for range 40 {
				if err := task.Pace(ctx, 256<<10); err != nil { // more than the burst
					return err
				}
			}
			return nil
		}
		wantAbout(t, "10 MiB at 1 MiB/s", timed(t, q, s, false, move), 10*time.Second)
		q.SetRate(4 << 20)
		wantAbout(t, "10 MiB at 4 MiB/s", timed(t, q, s, false, move), 2500*time.Millisecond)
		wantAbout(t, "10 MiB at 4 MiB/s, urgent", timed(t, q, s, true, move), 2500*time.Millisecond)
		q.SetRate(0)
		if d := timed(t, q, s, false, move); d != 0 {
			t.Errorf("without a limit it took %v", d)
		}
	})
}

func TestIdleJobsHaveARateOfTheirOwn(t *testing.T) {
	inBubble(t, Options{BytesPerSecond: 4 << 20, IdleBytesPerSecond: 1 << 20}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(ctx context.Context, task *Task) error {
			for range 40 {
				if err := task.Pace(ctx, 256<<10); err != nil {
					return err
				}
			}
			return nil
		}
		start := time.Now()
		waitNil(t, q, add(t, q, store.JobScrub, "scrub", false).ID)
		wantAbout(t, "10 MiB at 1 MiB/s", time.Since(start), 10*time.Second)
		start = time.Now()
		waitNil(t, q, add(t, q, store.JobFlatten, "flatten", false).ID)
		wantAbout(t, "10 MiB at 4 MiB/s", time.Since(start), 2500*time.Millisecond)
	})
}

func TestRateIsForAllJobsTogether(t *testing.T) {
	inBubble(t, Options{Workers: 4, BytesPerSecond: 1 << 20}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(ctx context.Context, task *Task) error {
			for range 20 {
				if err := task.Pace(ctx, 128<<10); err != nil {
					return err
				}
			}
			return nil
		}
		start := time.Now()
		a := add(t, q, store.JobFlatten, "a", false)
		b := add(t, q, store.JobFlatten, "b", false)
		waitNil(t, q, a.ID)
		waitNil(t, q, b.ID)
		wantAbout(t, "5 MiB of two jobs", time.Since(start), 5*time.Second)
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	for name, o := range map[string]Options{"rate": {BytesPerSecond: 1}, "foreground": {Load: NewLoad()}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, o, newLog(), func(t *testing.T, q *Queue, s *stage) {
				var paced error
				s.onRun = func(ctx context.Context, task *Task) error {
					for paced == nil {
						if o.Load != nil {
							o.Load.Begin()
							advance(time.Second)
						}
						paced = task.Pace(ctx, 1<<20)
					}
					return paced
				}
				j := add(t, q, store.JobFlatten, "a", false)
				advance(1200 * time.Millisecond)
				if err := q.Pause(j.ID); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				wantErr(t, paced, context.Canceled)
				wantState(t, q, j.ID, store.JobPaused)
			})
		})
	}
}

// work is a job of n pieces, each of which takes a while.
func work(n int, piece time.Duration) func(context.Context, *Task) error {
	return func(ctx context.Context, task *Task) error {
		for range n {
			if err := task.Pace(ctx, 1<<20); err != nil {
				return err
			}
			advance(piece)
		}
		return nil
	}
}

// foreground does operations until it is told to stop. Beside background work they
// take the given multiple of a millisecond.
func foreground(l *Load, slower int) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			s := l.Begin()
			d := time.Millisecond
			if l.working.Load() > 0 {
				d *= time.Duration(slower)
			}
			advance(d)
			l.End(s)
			select {
			case <-quit:
				return
			default:
			}
		}
	}()
	return func() { close(quit); <-done }
}

func TestBackgroundYields(t *testing.T) {
	const piece = 20 * time.Millisecond
	for _, c := range []struct {
		name   string
		slower int // 0: no foreground at all
		urgent bool
		want   time.Duration
	}{
		{"nobody there", 0, false, 200 * piece},
		{"foreground unharmed", 1, false, 2 * 200 * piece},
		{"foreground suffers", 8, false, 10 * 200 * piece},
		{"urgent", 8, true, 200 * piece},
	} {
		t.Run(c.name, func(t *testing.T) {
			load := NewLoad()
			inBubble(t, Options{Load: load}, newLog(), func(t *testing.T, q *Queue, s *stage) {
				if c.slower > 0 {
					stop := foreground(load, c.slower)
					defer stop()
					advance(time.Second) // the gauge learns what quiet is
				}
				got := timed(t, q, s, c.urgent, work(200, piece))
				wantAbout(t, c.name, got, c.want)
			})
			if load.working.Load() != 0 || load.InFlight() != 0 {
				t.Errorf("gauge is left with %d at work, %d in flight", load.working.Load(), load.InFlight())
			}
		})
	}
}

func TestPauseForTheForegroundIsBounded(t *testing.T) {
	load := NewLoad()
	inBubble(t, Options{Load: load}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		defer load.End(load.Begin()) // one operation that hangs
		got := timed(t, q, s, false, work(10, time.Minute))
		if most := 10*time.Minute + 11*pauseMost; got > most {
			t.Errorf("took %v, at most %v is due", got, most)
		}
	})
}

func TestPressure(t *testing.T) {
	l := NewLoad()
	if p := l.Pressure(); p != 1 {
		t.Errorf("pressure %v of nothing", p)
	}
	l.quiet.add(0.001)
	if p := l.Pressure(); p != 1 {
		t.Errorf("pressure %v without a loaded sample", p)
	}
	for range 200 {
		l.quiet.add(0.001)
		l.loaded.add(0.003)
	}
	if p := l.Pressure(); math.Abs(p-3) > 0.01 {
		t.Errorf("pressure %v, want 3", p)
	}
}

func BenchmarkLoad(b *testing.B) {
	l := NewLoad()
	for b.Loop() {
		l.End(l.Begin())
	}
}
