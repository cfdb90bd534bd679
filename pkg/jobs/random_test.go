package jobs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random test; 0 takes STRATA_SEED or the time")

func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s, _ = strconv.ParseUint(os.Getenv("STRATA_SEED"), 10, 64)
	}
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: replay with STRATA_SEED=%d", s, s)
	return s
}

// TestRandomLives drives queues over one log with random requests from several
// goroutines, random outcomes of runs, and random closes and crashes between. In the
// end every job that was accepted and not cancelled was completed.
func TestRandomLives(t *testing.T) {
	base := seed(t)
	for round := range uint64(40) {
		synctest.Test(t, func(t *testing.T) { randomLife(t, base+round) })
	}
}

type life struct {
	t     *testing.T
	log   *memLog
	s     *stage
	calm  bool // runs succeed
	mu    sync.Mutex
	rng   *rand.Rand
	due   map[string]bool // kind/target that must be completed
	maybe map[string]bool // cancelled at some time: may or may not be
}

func randomLife(t *testing.T, seed uint64) {
	l := &life{t: t, log: newLog(), s: newStage(), rng: rand.New(rand.NewPCG(seed, 2)), due: map[string]bool{}, maybe: map[string]bool{}}
	l.s.onRun = l.run
	for range 4 {
		q := open(t, l.log, l.s, Options{Workers: 2 + l.intn(3), BytesPerSecond: int64(l.intn(2)) << 20, Load: NewLoad()})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 30 {
					l.request(q)
					advance(time.Duration(l.intn(2000)) * time.Millisecond)
				}
			})
		}
		if l.intn(2) == 0 {
			advance(time.Duration(l.intn(20)) * time.Second)
			q.Kill() // amid requests
			wg.Wait()
		} else {
			wg.Wait()
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.finish(seed)
}

// finish lets everything succeed and looks at what is left.
func (l *life) finish(seed uint64) {
	l.mu.Lock()
	l.calm = true
	l.mu.Unlock()
	q := open(l.t, l.log, l.s, Options{})
	for _, j := range q.List() {
		if err := q.Resume(j.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			l.t.Fatal(err)
		}
	}
	for _, j := range q.List() {
		waitNil(l.t, q, j.ID)
	}
	if err := q.Close(); err != nil {
		l.t.Fatal(err)
	}
	if n := l.log.count(); n != 0 {
		l.t.Errorf("seed %d: %d rows are left", seed, n)
	}
	for name := range l.due {
		if !l.maybe[name] {
			l.t.Errorf("seed %d: %s was accepted and never completed", seed, name)
		}
	}
	if len(l.s.twice) > 0 {
		l.t.Errorf("seed %d: targets ran twice at once: %v", seed, l.s.twice)
	}
}

func (l *life) intn(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(n)
}

func (l *life) run(ctx context.Context, task *Task) error {
	j := task.Job()
	for i := range int64(l.intn(5)) {
		if err := task.Pace(ctx, 100<<10); err != nil {
			return err
		}
		advance(time.Duration(l.intn(1500)) * time.Millisecond)
		task.Progress(j.Done+i, 100, j.Copied+i)
	}
	outcome := l.intn(10)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.calm || outcome > 3:
		delete(l.due, string(j.Kind)+"/"+j.Target)
		return nil
	case outcome == 0:
		return errBroken
	case outcome == 1:
		return store.ErrNoSpace
	}
	return fmt.Errorf("not yet: %w", store.ErrBusy)
}

func (l *life) request(q *Queue) {
	kinds := []store.JobKind{store.JobFlatten, store.JobMerge, store.JobDelete, store.JobScrub}
	j := New(kinds[l.intn(len(kinds))], fmt.Sprint(l.intn(6)), 100)
	name := string(j.Kind) + "/" + j.Target
	j.Urgent = l.intn(5) == 0
	list := q.List()
	switch op := l.intn(8); {
	case op < 4:
		l.want(name)
		_, err := q.Add(j)
		l.check(err, name)
	case op == 4:
		l.want(name)
		l.check(l.log.SaveJob(j), name)
		q.Adopt(j)
	case len(list) == 0:
	case op == 5:
		l.check(q.Pause(list[l.intn(len(list))].ID), "")
	case op == 6:
		l.check(q.Resume(list[l.intn(len(list))].ID), "")
	case op == 7:
		victim := list[l.intn(len(list))]
		l.mu.Lock()
		l.maybe[string(victim.Kind)+"/"+victim.Target] = true
		l.mu.Unlock()
		l.check(q.Cancel(victim.ID), "")
	}
}

// want notes a job as due. It does so before the request, since a run of an equal
// job may end between the two.
func (l *life) want(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due[name] = true
}

// check accepts the errors that a job which just ended, or a closed queue, causes.
func (l *life) check(err error, name string) {
	switch {
	case err == nil:
	case errors.Is(err, store.ErrClosed):
		l.mu.Lock()
		l.maybe[name] = true // it was not accepted
		l.mu.Unlock()
	case !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid):
		l.t.Error(err)
	}
}
