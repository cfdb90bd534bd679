package jobs

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/strata-csi/strata/pkg/store"
)

func TestJobRunsAndItsRowGoes(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		if row, ok := log.row(j.ID); !ok || row.State != store.JobQueued {
			t.Fatalf("row %+v %v is not in the log", row, ok)
		}
		wantState(t, q, j.ID, store.JobRunning)
		s.gate("a") <- nil
		waitNil(t, q, j.ID)
		if log.count() != 0 || len(q.List()) != 0 {
			t.Error("the row is still there")
		}
		wantState(t, q, j.ID, store.JobDone)
		if _, ok := q.Find(store.JobFlatten, "a"); ok {
			t.Error("a job that is done was found")
		}
	})
}

func TestAddReturnsWhatIsThere(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		first := add(t, q, store.JobFlatten, "a", false)
		wantState(t, q, first.ID, store.JobRunning)
		waiting := add(t, q, store.JobFlatten, "b", false)
		for _, j := range []store.Job{first, waiting} {
			if again := add(t, q, store.JobFlatten, j.Target, false); again.ID != j.ID {
				t.Errorf("%s was queued twice", j.Target)
			}
		}
		if j := add(t, q, store.JobFlatten, "b", true); j.ID != waiting.ID || !j.Urgent {
			t.Errorf("job %+v was not made urgent", j)
		}
		if other := add(t, q, store.JobScrub, "a", false); other.ID == first.ID {
			t.Error("another kind of job was taken for the same")
		}
		wantOrder(t, s, "a", "b")
	})
}

func TestUrgencyIsDurable(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobFlatten, "blocks", false)
		j := add(t, q, store.JobFlatten, "a", false)
		add(t, q, store.JobFlatten, "a", true)
		if row, _ := log.row(j.ID); !row.Urgent {
			t.Error("the row in the log is not urgent")
		}
	})
}

func TestOrder(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobFlatten, "long0", false)
		add(t, q, store.JobDelete, "short0", false)
		add(t, q, store.JobFlatten, "urgent0", true)
		wantOrder(t, s, "long0", "short0", "urgent0") // every slot is taken
		add(t, q, store.JobFlatten, "long1", false)
		add(t, q, store.JobFlatten, "long2", false)
		add(t, q, store.JobMerge, "short1", false)
		add(t, q, store.JobDelete, "short2", false)
		add(t, q, store.JobFlatten, "urgent1", true)
		add(t, q, store.JobScrub, "urgent2", true)
		want := []string{"long0", "short0", "urgent0"}
		for _, step := range []struct{ ends, starts string }{
			{"urgent0", "urgent1"}, {"urgent1", "urgent2"}, {"short0", "short1"}, {"short1", "short2"},
			{"long0", "long1"}, {"long1", "long2"},
		} {
			s.gate(step.ends) <- nil
			want = append(want, step.starts)
			wantOrder(t, s, want...)
		}
	})
}

func TestLongJobsLeaveASlot(t *testing.T) {
	inBubble(t, Options{Workers: 3}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		for i := range 4 {
			add(t, q, store.JobFlatten, fmt.Sprint("long", i), false)
		}
		wantOrder(t, s, "long0", "long1")
		add(t, q, store.JobDelete, "short", false)
		wantOrder(t, s, "long0", "long1", "short")
		add(t, q, store.JobDelete, "short2", false)
		wantOrder(t, s, "long0", "long1", "short")
		add(t, q, store.JobFlatten, "urgent", true)
		wantOrder(t, s, "long0", "long1", "short", "urgent")
	})
}

// A scrub holds up nothing and runs beside all others, one at a time.
func TestIdleJobsHaveASlotOfTheirOwn(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobScrub, "idle0", false)
		add(t, q, store.JobScrub, "idle1", false)
		wantOrder(t, s, "idle0")
		add(t, q, store.JobFlatten, "long0", false)
		add(t, q, store.JobDelete, "short0", false)
		add(t, q, store.JobFlatten, "urgent0", true)
		add(t, q, store.JobFlatten, "long1", false)
		wantOrder(t, s, "idle0", "long0", "short0", "urgent0")
		s.gate("idle0") <- nil
		wantOrder(t, s, "idle0", "long0", "short0", "urgent0", "idle1")
	})
}

func TestClassesAreTheCallers(t *testing.T) {
	class := func(kind store.JobKind) Class {
		if kind == store.JobFlatten {
			return Short
		}
		return Long
	}
	inBubble(t, Options{Class: class}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobDelete, "long0", false)
		add(t, q, store.JobDelete, "long1", false)
		add(t, q, store.JobFlatten, "short0", false)
		wantOrder(t, s, "long0", "short0")
	})
}

func TestMadeUrgentWhileItWaits(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobFlatten, "a", false)
		add(t, q, store.JobFlatten, "b", false)
		add(t, q, store.JobFlatten, "c", false)
		wantOrder(t, s, "a")
		add(t, q, store.JobFlatten, "c", true)
		wantOrder(t, s, "a", "c")
	})
}

// TestNoJobStarves keeps both slots busy with short jobs that never end coming.
func TestNoJobStarves(t *testing.T) {
	inBubble(t, Options{}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		for i := range 3 {
			add(t, q, store.JobDelete, fmt.Sprint(i), false)
		}
		add(t, q, store.JobFlatten, "long", false)
		for i := range 3 * patience {
			s.gate(fmt.Sprint(i)) <- nil
			add(t, q, store.JobDelete, fmt.Sprint(i+3), false)
			if slices.Contains(s.order(), "long") {
				return
			}
		}
		t.Errorf("the long job did not start: %v", s.order())
	})
}

func TestSameTargetNeverRunsTwiceAtOnce(t *testing.T) {
	inBubble(t, Options{Workers: 4}, newLog(), func(t *testing.T, q *Queue, s *stage) {
		add(t, q, store.JobMerge, "x", false)
		add(t, q, store.JobDelete, "x", false)
		add(t, q, store.JobScrub, "x", true)
		add(t, q, store.JobDelete, "y", false)
		wantOrder(t, s, "x", "y")
		s.gate("x") <- nil
		wantOrder(t, s, "x", "y", "x")
		s.gate("x") <- nil
		wantOrder(t, s, "x", "y", "x", "x")
	})
}

func TestAdopt(t *testing.T) {
	log := newLog()
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		adopt := func(target string) store.Job {
			j := New(store.JobMerge, target, 0)
			if err := log.SaveJob(j); err != nil {
				t.Fatal(err)
			}
			return q.Adopt(j)
		}
		first := adopt("a")
		wantOrder(t, s, "a")
		second := adopt("a")
		if second.ID == first.ID {
			t.Fatal("a job adopted while its like runs was dropped")
		}
		if third := adopt("a"); third.ID != second.ID {
			t.Error("a job was queued beside its like")
		}
		if log.count() != 2 {
			t.Errorf("%d rows, want 2: the dropped one stayed", log.count())
		}
		if again := q.Adopt(second); again.ID != second.ID || len(q.List()) != 2 {
			t.Error("adopting the same job again changed something")
		}
		s.gate("a") <- nil
		wantOrder(t, s, "a", "a")
		s.gate("a") <- nil
		waitNil(t, q, second.ID)
		if log.count() != 0 {
			t.Errorf("%d rows are left", log.count())
		}
	})
}

func TestAddRefuses(t *testing.T) {
	log := newLog()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		q := open(t, log, s, Options{})
		known := add(t, q, store.JobFlatten, "a", false)
		for _, c := range []struct {
			job  store.Job
			want error
		}{
			{store.Job{ID: "1", Kind: "defrag", Target: "x"}, store.ErrUnsupported},
			{store.Job{Kind: store.JobScrub, Target: "x"}, store.ErrInvalid},
			{store.Job{ID: "1", Kind: store.JobScrub}, store.ErrInvalid},
			{store.Job{ID: known.ID, Kind: store.JobScrub, Target: "x"}, store.ErrInvalid},
		} {
			_, err := q.Add(c.job)
			wantErr(t, err, c.want)
		}
		log.fail(errBroken, nil)
		_, err := q.Add(New(store.JobScrub, "x", 0))
		wantErr(t, err, errBroken)
		if len(q.List()) != 1 {
			t.Error("a job that is not in the log was queued")
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = q.Add(New(store.JobScrub, "x", 0))
		wantErr(t, err, store.ErrClosed)
		q.Adopt(New(store.JobScrub, "x", 0))
		if len(q.List()) != 1 {
			t.Error("a closed queue adopted a job")
		}
	})
}

func TestOpenGoesOn(t *testing.T) {
	row := func(id string, kind store.JobKind, target string, state store.JobState) store.Job {
		return store.Job{ID: id, Kind: kind, Target: target, State: state, Done: 5, Copied: 3, Total: 9}
	}
	failed := row("2", store.JobFlatten, "failed", store.JobFailed)
	failed.Error = "disk on fire"
	twin := row("9", store.JobFlatten, "ran", store.JobQueued)
	twin.Urgent = true
	log := newLog(row("1", store.JobFlatten, "ran", store.JobRunning), failed,
		row("3", store.JobFlatten, "paused", store.JobPaused), row("4", "defrag", "x", store.JobQueued),
		row("5", store.JobFlatten, "failed", store.JobQueued), twin, row("0", store.JobFlatten, "first", store.JobQueued))
	inBubble(t, Options{}, log, func(t *testing.T, q *Queue, s *stage) {
		if got := s.order(); len(got) != 2 || !slices.Contains(got, "ran") || !slices.Contains(got, "first") {
			t.Fatalf("started %v, want ran and first", got)
		}
		for id, want := range map[string]store.JobState{"1": store.JobRunning, "3": store.JobPaused, "4": store.JobFailed, "5": store.JobQueued} {
			if j := wantState(t, q, id, want); j.Done != 5 || j.Copied != 3 {
				t.Errorf("job %+v lost its progress", j)
			}
		}
		if j, _ := q.Get("1"); !j.Urgent {
			t.Error("the urgency of a dropped twin was lost")
		}
		for _, id := range []string{"2", "9"} {
			_, err := q.Get(id)
			wantErr(t, err, store.ErrNotFound)
			if _, ok := log.row(id); ok {
				t.Errorf("row %s is still there", id)
			}
		}
		wantErr(t, q.Resume("4"), store.ErrUnsupported)
		wantErr(t, q.Wait(context.Background(), "4"), store.ErrUnsupported)
		if _, ok := log.row("4"); !ok {
			t.Error("the row of a kind from the future was lost")
		}
	})
}

func TestIDsSortByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		for range 100 {
			ids = append(ids, New(store.JobScrub, "x", 0).ID)
			advance(tick)
		}
		if !slices.IsSorted(ids) {
			t.Errorf("ids are not in order: %v", ids)
		}
	})
}

func TestEventsTellEveryState(t *testing.T) {
	events := make(chan store.JobState, 100)
	o := Options{OnEvent: func(j store.Job) { events <- j.State }}
	inBubble(t, o, newLog(), func(t *testing.T, q *Queue, s *stage) {
		j := add(t, q, store.JobFlatten, "a", false)
		wantState(t, q, j.ID, store.JobRunning)
		s.gate("a") <- errBroken
		wantState(t, q, j.ID, store.JobFailed)
		if err := q.Resume(j.ID); err != nil {
			t.Fatal(err)
		}
		wantState(t, q, j.ID, store.JobRunning)
		s.gate("a") <- nil
		waitNil(t, q, j.ID)
		synctest.Wait()
		close(events)
		var got []store.JobState
		for e := range events {
			got = append(got, e)
		}
		slices.Sort(got) // they come from several goroutines
		want := []store.JobState{"done", "failed", "queued", "queued", "running", "running"}
		if !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}
