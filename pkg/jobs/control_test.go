package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

func TestPauseAndResume(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		running := add(t, q, store.JobFlatten, "running", false)
		waiting := add(t, q, store.JobFlatten, "waiting", false)
		for _, j := range []store.Job{running, waiting, waiting} {
			if err := q.Pause(j.ID); err != nil {
				t.Fatal(err)
			}
			wantState(t, q, j.ID, store.JobPaused)
			if row, _ := log.row(j.ID); row.State != store.JobPaused {
				t.Errorf("row %+v is not paused in the log", row)
			}
		}
		if s.live["running"] != 0 {
			t.Error("the run was not stopped")
		}
		if j := add(t, q, store.JobFlatten, "waiting", true); j.State != store.JobPaused {
			t.Error("adding a paused job again resumed it")
		}
		for range 2 {
			if err := q.Resume(running.ID); err != nil {
				t.Fatal(err)
			}
			wantState(t, q, running.ID, store.JobRunning)
		}
		wantOrder(t, s, "running", "waiting", "running") // the waiting one had its slot for a moment
	})
	synctest.Test(t, func(t *testing.T) { // a restart
		s := newStage()
		q := open(t, log, s, Options{})
		defer q.Close()
		wantOrder(t, s, "running")
		if len(q.List()) != 2 {
			t.Errorf("jobs %+v, want the paused one and the other", q.List())
		}
	})
}

// TestResumeBeforeTheRunHasStopped: the second run starts after the first has ended.
func TestResumeBeforeTheRunHasStopped(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(ctx context.Context, _ *Task) error {
			<-ctx.Done()
			advance(time.Minute) // it takes its time to stop
			return ctx.Err()
		}
		j := add(t, q, store.JobFlatten, "a", false)
		if err := errors.Join(q.Pause(j.ID), q.Resume(j.ID)); err != nil {
			t.Fatal(err)
		}
		wantState(t, q, j.ID, store.JobQueued)
		wantOrder(t, s, "a")
		advance(2 * time.Minute)
		wantState(t, q, j.ID, store.JobRunning)
		wantOrder(t, s, "a", "a")
	})
}

func TestJobThatEndsWhilePausedIsDone(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(ctx context.Context, _ *Task) error { <-ctx.Done(); return nil }
		j := add(t, q, store.JobFlatten, "a", false)
		if err := q.Pause(j.ID); err != nil {
			t.Fatal(err)
		}
		wantState(t, q, j.ID, store.JobDone)
		if log.count() != 0 {
			t.Error("its row is still there")
		}
	})
}

func TestCancel(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(ctx context.Context, task *Task) error {
			<-ctx.Done()
			advance(2 * saveEvery)
			task.Progress(1, 2, 1) // must not bring the row back
			return ctx.Err()
		}
		running := add(t, q, store.JobFlatten, "a", false)
		waiting := add(t, q, store.JobFlatten, "b", false)
		waited := make(chan error, 1)
		go func() { waited <- q.Wait(context.Background(), running.ID) }()
		synctest.Wait()
		for _, j := range []store.Job{waiting, running} {
			if err := q.Cancel(j.ID); err != nil {
				t.Fatal(err)
			}
			_, err := q.Get(j.ID)
			wantErr(t, err, store.ErrNotFound)
			for _, op := range []func(string) error{q.Cancel, q.Pause, q.Resume} {
				wantErr(t, op(j.ID), store.ErrNotFound)
			}
		}
		wantErr(t, <-waited, store.ErrNotFound)
		again := add(t, q, store.JobFlatten, "a", false)
		wantState(t, q, again.ID, store.JobQueued) // the first run has not ended
		advance(3 * saveEvery)
		wantState(t, q, again.ID, store.JobRunning)
		if _, ok := log.row(running.ID); ok {
			t.Error("progress brought a cancelled job back")
		}
	})
}

func TestControlThatCannotBeWrittenChangesNothing(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		log.fail(errBroken, errBroken)
		wantErr(t, q.Pause(j.ID), errBroken)
		wantErr(t, q.Cancel(j.ID), errBroken)
		urgent := New(store.JobFlatten, "a", 0)
		urgent.Urgent = true
		_, err := q.Add(urgent)
		wantErr(t, err, errBroken)
		if j := wantState(t, q, j.ID, store.JobRunning); j.Urgent {
			t.Error("it is urgent in memory and not in the log")
		}
		log.fail(nil, nil)
	})
}

func TestFailedJobStaysVisible(t *testing.T) {
	log := newLog()
	var id string
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		id = j.ID
		s.gate("a") <- fmt.Errorf("layer 7: %w", store.ErrCorrupt)
		wantErr(t, q.Wait(context.Background(), id), store.ErrCorrupt)
		if j := wantState(t, q, id, store.JobFailed); j.Error != "layer 7: damaged" {
			t.Errorf("error %q", j.Error)
		}
		wantErr(t, q.Pause(id), store.ErrInvalid)
		advance(time.Hour)
		wantOrder(t, s, "a") // it is not tried again by itself
	})
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		if j := wantState(t, q, id, store.JobFailed); j.Error != "layer 7: damaged" {
			t.Errorf("error %q after a restart", j.Error)
		}
		if err := q.Resume(id); err != nil {
			t.Fatal(err)
		}
		wantState(t, q, id, store.JobRunning)
		s.gate("a") <- errBroken
		wantState(t, q, id, store.JobFailed)
		if j := add(t, q, store.JobFlatten, "a", false); j.ID != id {
			t.Error("a failed job was queued beside itself")
		}
		if j := wantState(t, q, id, store.JobRunning); j.Error != "" {
			t.Errorf("it runs with the error %q of the last run", j.Error)
		}
		s.gate("a") <- errBroken
		wantState(t, q, id, store.JobFailed)
		next := New(store.JobFlatten, "a", 0)
		if err := log.SaveJob(next); err != nil {
			t.Fatal(err)
		}
		q.Adopt(next)
		wantState(t, q, next.ID, store.JobRunning)
		if _, ok := log.row(id); ok || len(q.List()) != 1 {
			t.Error("the failed job is still there beside the adopted one")
		}
		s.gate("a") <- nil
		waitNil(t, q, next.ID)
	})
}

func TestRetryBacksOff(t *testing.T) {
	for _, c := range []struct {
		err  error
		want []time.Duration // between the starts
	}{
		{store.ErrBusy, []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
			4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}},
		{store.ErrNoSpace, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second,
			80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}},
	} {
		log := newLog()
		inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
			var starts []time.Time
			s.onRun = func(_ context.Context, task *Task) error {
				if starts = append(starts, time.Now()); len(starts) > len(c.want) {
					return nil
				}
				return fmt.Errorf("not now: %w", c.err)
			}
			j := add(t, q, store.JobFlatten, "a", false)
			if j := wantState(t, q, j.ID, store.JobQueued); j.Error == "" {
				t.Error("why it waits is not visible")
			}
			waitNil(t, q, j.ID)
			var got []time.Duration
			for i := range c.want {
				got = append(got, starts[i+1].Sub(starts[i]))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v: waits %v, want %v", c.err, got, c.want)
			}
		})
	}
}

func TestProgressEndsBackOff(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		var starts []time.Time
		s.onRun = func(_ context.Context, task *Task) error {
			starts = append(starts, time.Now())
			if len(starts) == 6 {
				return nil
			}
			task.Progress(int64(len(starts)), 10, 0)
			return store.ErrNoSpace
		}
		waitNil(t, q, add(t, q, store.JobFlatten, "a", false).ID)
		for i := range starts[1:] {
			if d := starts[i+1].Sub(starts[i]); d != spaceFirst {
				t.Errorf("try %d came after %v", i+1, d)
			}
		}
	})
}

func TestResumeCutsTheBackOffShort(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		s.gate("a") <- store.ErrNoSpace
		wantState(t, q, j.ID, store.JobQueued)
		if err := q.Resume(j.ID); err != nil {
			t.Fatal(err)
		}
		wantState(t, q, j.ID, store.JobRunning)
	})
}

func TestWaitingForARetryHoldsNothingUp(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobFlatten, "a", false)
		add(t, q, store.JobFlatten, "b", false)
		s.gate("a") <- store.ErrNoSpace
		wantOrder(t, s, "a", "b")
	})
}

// TestRowThatDoesNotGo: the work is done and its row cannot be deleted. Waiting for the
// row would keep a caller for as long as the log is broken; the next Open runs the
// job again, which finds nothing to do.
func TestRowThatDoesNotGo(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		s.free = true
		log.fail(nil, errBroken)
		j := add(t, q, store.JobFlatten, "a", false)
		waitNil(t, q, j.ID)
		log.fail(nil, nil)
		if log.count() != 1 {
			t.Error("the row is gone, so the next Open would not know")
		}
	})
}

func TestCloseKeepsRowsAndProgress(t *testing.T) {
	log := newLog()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		ended := false
		s.onRun = func(ctx context.Context, task *Task) error {
			task.Progress(40, 100, 30)
			<-ctx.Done()
			advance(time.Second)
			ended = true
			return ctx.Err()
		}
		q := open(t, log, s, Options{})
		j := add(t, q, store.JobFlatten, "a", false)
		waited := make(chan error, 1)
		go func() { waited <- q.Wait(context.Background(), j.ID) }()
		synctest.Wait()
		if err := errors.Join(q.Close(), q.Close()); err != nil {
			t.Fatal(err)
		}
		if !ended {
			t.Error("close did not wait for the run")
		}
		wantErr(t, <-waited, store.ErrClosed)
		row, ok := log.row(j.ID)
		if !ok || row.State != store.JobQueued || row.Done != 40 || row.Copied != 30 || row.Total != 100 {
			t.Errorf("row %+v %v", row, ok)
		}
		for _, op := range []func(string) error{q.Cancel, q.Pause, q.Resume} {
			wantErr(t, op(j.ID), store.ErrClosed)
		}
	})
}

func TestKillWritesNothing(t *testing.T) {
	log := newLog()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.onRun = func(ctx context.Context, task *Task) error {
			task.Progress(1, 100, 1)
			<-ctx.Done()
			advance(2 * saveEvery)
			task.Progress(99, 100, 99)
			if task.Job().Target == "b" {
				return nil
			}
			return ctx.Err()
		}
		q := open(t, log, s, Options{Workers: 3})
		a := add(t, q, store.JobFlatten, "a", false)
		b := add(t, q, store.JobFlatten, "b", false)
		log.mu.Lock()
		log.sealed = true
		log.mu.Unlock()
		q.Kill()
		if len(log.late) > 0 {
			t.Errorf("written after the crash: %v", log.late)
		}
		for _, j := range []store.Job{a, b} {
			if row, ok := log.row(j.ID); !ok || row.Done != 0 {
				t.Errorf("row %+v %v, want it as it was before the crash", row, ok)
			}
		}
		log.sealed = false
		s2 := newStage()
		s2.free = true
		q = open(t, log, s2, Options{})
		waitNil(t, q, a.ID)
		waitNil(t, q, b.ID)
		if err := q.Close(); err != nil || log.count() != 0 {
			t.Errorf("%d rows are left: %v", log.count(), err)
		}
	})
}

func TestProgressIsSavedSeldom(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(_ context.Context, task *Task) error {
			for i := range int64(300) { // one a 100 ms for half a minute
				advance(100 * time.Millisecond)
				task.Progress(i, 300, i/2)
			}
			return nil
		}
		j := add(t, q, store.JobFlatten, "a", false)
		advance(12*time.Second + tick)
		row, _ := log.row(j.ID)
		if row.Done < 99 || row.State != store.JobQueued {
			t.Errorf("row %+v after 12 s, want progress of 10 s", row)
		}
		waitNil(t, q, j.ID)
		if log.saves > 1+6 {
			t.Errorf("%d rows were written in 30 s", log.saves)
		}
		if n := q.Copied(); n != 149 {
			t.Errorf("copied %d, want 149", n)
		}
	})
}
