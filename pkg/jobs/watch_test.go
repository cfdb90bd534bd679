package jobs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

func TestWatchIsPaced(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		s.onRun = func(_ context.Context, task *Task) error {
			for i := range int64(1000) {
				advance(time.Millisecond)
				task.Progress(i+1, 1000, 0)
			}
			advance(10 * time.Second) // no change: no call
			return nil
		}
		j := add(t, q, store.JobFlatten, "a", false)
		var at []time.Time
		var last store.Job
		err := q.Watch(context.Background(), j.ID, func(j store.Job) error {
			at, last = append(at, time.Now()), j
			return nil
		})
		if err != nil || last.State != store.JobDone || last.Done != 1000 {
			t.Fatalf("ended with %+v: %v", last, err)
		}
		if len(at) < 10 || len(at) > 13 {
			t.Errorf("%d calls in a second of progress", len(at))
		}
		for i := 1; i < len(at)-1; i++ {
			if d := at[i].Sub(at[i-1]); d < watchEvery {
				t.Errorf("call %d came after %v", i, d)
			}
		}
		if time.Since(at[len(at)-1]) != 0 {
			t.Error("the end was told late")
		}
	})
}

func TestWatchTellsTheEndAtOnce(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		start := time.Now()
		go func() { s.gate("a") <- nil }()
		waitNil(t, q, j.ID)
		if d := time.Since(start); d != 0 {
			t.Errorf("the end was told %v late", d)
		}
		var seen []store.JobState
		if err := q.Watch(context.Background(), j.ID, func(j store.Job) error {
			seen = append(seen, j.State)
			return nil
		}); err != nil || len(seen) != 1 || seen[0] != store.JobDone {
			t.Errorf("watching a job that is done: %v %v", seen, err)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		wantErr(t, q.Wait(context.Background(), "none"), store.ErrNotFound)
		j := add(t, q, store.JobFlatten, "a", false)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		wantErr(t, q.Wait(ctx, j.ID), context.DeadlineExceeded)
		wantErr(t, q.Watch(context.Background(), j.ID, func(store.Job) error { return errBroken }), errBroken)
		if err := q.Pause(j.ID); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() { waited <- q.Wait(context.Background(), j.ID) }()
		advance(time.Hour)
		select {
		case err := <-waited:
			t.Fatalf("did not wait for a paused job: %v", err)
		default:
		}
		if err := q.Resume(j.ID); err != nil {
			t.Fatal(err)
		}
		s.gate("a") <- nil
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
	})
}

func TestFinishedJobsAreForgottenInTheEnd(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		s.free = true
		first := add(t, q, store.JobScrub, "a", false)
		waitNil(t, q, first.ID)
		var last store.Job
		for range remembered {
			last = New(store.JobScrub, "a", 0)
			if _, err := q.Add(last); err != nil {
				t.Fatal(err)
			}
			waitNil(t, q, last.ID)
			synctest.Wait()
		}
		wantErr(t, q.Wait(context.Background(), first.ID), store.ErrNotFound)
		waitNil(t, q, last.ID)
		if n := len(q.recent); n != remembered {
			t.Errorf("%d finished jobs are remembered", n)
		}
	})
}
