package jobs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// memLog is a log in memory whose writes can be made to fail.
type memLog struct {
	mu      sync.Mutex
	rows    map[string]store.Job
	saves   int
	sealed  bool // a write is an error of the queue
	late    []string
	saveErr error
	delErr  error
}

func newLog(rows ...store.Job) *memLog {
	l := &memLog{rows: map[string]store.Job{}}
	for _, r := range rows {
		l.rows[r.ID] = r
	}
	return l
}

func (l *memLog) SaveJob(j store.Job) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("save " + j.ID)
	if l.saveErr != nil {
		return l.saveErr
	}
	l.saves++
	l.rows[j.ID] = j
	return nil
}

func (l *memLog) DeleteJob(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("delete " + id)
	if l.delErr != nil {
		return l.delErr
	}
	delete(l.rows, id)
	return nil
}

func (l *memLog) note(op string) {
	if l.sealed {
		l.late = append(l.late, op)
	}
}

func (l *memLog) LoadJobs() ([]store.Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.rows)), nil
}

func (l *memLog) fail(save, del error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saveErr, l.delErr = save, del
}

func (l *memLog) row(id string) (store.Job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j, ok := l.rows[id]
	return j, ok
}

func (l *memLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rows)
}

// stage runs jobs that stop until the test lets them go.
type stage struct {
	mu      sync.Mutex
	started []string // targets in the order of start
	live    map[string]int
	gates   map[string]chan error
	free    bool // jobs end at once
	twice   []string
	onRun   func(ctx context.Context, t *Task) error
}

func newStage() *stage { return &stage{live: map[string]int{}, gates: map[string]chan error{}} }

func (s *stage) gate(target string) chan error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[target] == nil {
		s.gates[target] = make(chan error)
	}
	return s.gates[target]
}

func (s *stage) run(ctx context.Context, t *Task) error {
	target := t.Job().Target
	s.mu.Lock()
	s.started = append(s.started, target)
	if s.live[target]++; s.live[target] > 1 {
		s.twice = append(s.twice, target)
	}
	free, onRun := s.free, s.onRun
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.live[target]--
		s.mu.Unlock()
	}()
	switch {
	case onRun != nil:
		return onRun(ctx, t)
	case free:
		return nil
	}
	select {
	case err := <-s.gate(target):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// order returns the targets started so far.
func (s *stage) order() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.started)
}

func (s *stage) runners() map[store.JobKind]Runner {
	return map[store.JobKind]Runner{store.JobFlatten: s.run, store.JobMerge: s.run, store.JobDelete: s.run, store.JobScrub: s.run}
}

// inBubble runs a test on a fake clock with a queue that is closed at its end.
func inBubble(t *testing.T, o Options, log *memLog, fn func(t *testing.T, q *Queue, s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		q := open(t, log, s, o)
		t.Cleanup(func() {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			if len(s.twice) > 0 {
				t.Errorf("targets ran twice at once: %v", s.twice)
			}
		})
		fn(t, q, s)
	})
}

func open(t *testing.T, log *memLog, s *stage, o Options) *Queue {
	t.Helper()
	q, err := Open(log, s.runners(), o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func add(t *testing.T, q *Queue, kind store.JobKind, target string, urgent bool) store.Job {
	t.Helper()
	j := New(kind, target, 100)
	j.Urgent = urgent
	j, err := q.Add(j)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // so that jobs start in the order of the test
	return j
}

func wantState(t *testing.T, q *Queue, id string, want store.JobState) store.Job {
	t.Helper()
	synctest.Wait()
	j, err := q.Get(id)
	if err != nil || j.State != want {
		t.Fatalf("job %+v (%v), want it %s", j, err, want)
	}
	return j
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func wantOrder(t *testing.T, s *stage, want ...string) {
	t.Helper()
	if got := s.order(); !slices.Equal(got, want) {
		t.Fatalf("started %v, want %v", got, want)
	}
}

func waitNil(t *testing.T, q *Queue, id string) {
	t.Helper()
	if err := q.Wait(context.Background(), id); err != nil {
		t.Fatal(err)
	}
}

var errBroken = errors.New("broken")

const tick = time.Microsecond

// advance lets the fake clock run on; no real time passes.
func advance(d time.Duration) { <-time.After(d) }
