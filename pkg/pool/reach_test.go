package pool_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
)

// hurry is a time that slow stores cannot keep and that ends no test.
func hurry() pool.Options { return pool.Options{ProbeTimeout: pooltest.Patience / 2} }

// TestFindWaitsForASlowStore: a member that lives and does not answer a discovery in time
// is found by whoever has the time; a dead one is not, and says why.
func TestFindWaitsForASlowStore(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	_, b := n.Add("b:1")
	_, c := n.Add("c:1")
	set := open(t, n, hurry(), list("a:1", "b:1", "c:1"))
	if v := view(t, set); v.Err() != nil {
		t.Fatal(v.Err())
	}
	n.SetSlow("b:1", true)
	n.SetDown("c:1", true)
	for name, s := range map[string]*pool.Set{"known": set, "restarted": open(t, n, hurry(), list("a:1", "b:1", "c:1"))} {
		v := view(t, s)
		if _, ok := v.Member(b); ok || len(v.Members) != 1 {
			t.Fatalf("%s: the view waited: %+v", name, v)
		}
		m, err := s.Find(t.Context(), "p", b)
		if err != nil || m.UUID != b || m.Addr != "b:1" || !m.Joined {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if m, err := s.Find(t.Context(), "p", a); err != nil || m.UUID != a {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		if _, err := s.Find(t.Context(), "p", c); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), c) {
			t.Errorf("%s: the dead one: %v", name, err)
		}
		if _, err := s.Find(t.Context(), "p", string(store.NewID())); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: one that never was: %v", name, err)
		}
	}
}

// TestFindWaitsForTheOnlyStore: when nobody answers a process in time that has just been
// started, nobody tells it who is where; it looks at the addresses that it has.
func TestFindWaitsForTheOnlyStore(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	view(t, open(t, n, pool.Options{}, list("a:1")))
	n.SetSlow("a:1", true)
	set := open(t, n, hurry(), list("a:1"))
	if m, err := set.Find(t.Context(), "p", a); err != nil || m.UUID != a || !m.Joined {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := set.Find(t.Context(), "p", string(store.NewID())); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("another one: %v", err)
	}
}

// TestReachJudges: that a store is slow makes it no member if it is none.
func TestReachJudges(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	_, b := n.Add("b:1")
	settings := list("a:1", "b:1")
	set := open(t, n, hurry(), settings)
	view(t, set)
	lost := func() pool.View { // b is missing
		t.Helper()
		n.SetSlow("b:1", true)
		v := view(t, set)
		if len(v.Missing) != 1 {
			t.Fatalf("missing: %v", v.Missing)
		}
		return v
	}
	wantNot := func(v pool.View, x pool.Missing, why string) {
		t.Helper()
		if m, err := set.Reach(t.Context(), v, x); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, %v, want %q", m, err, why)
		}
	}
	v := lost()
	if m, err := set.Reach(t.Context(), v, v.Missing[0]); err != nil || m.UUID != b {
		t.Fatalf("%v, %v", m, err)
	}
	v.Forgotten = []string{b}
	wantNot(v, pool.Missing{Addr: "b:1"}, "forgotten")
	wantNot(v, pool.Missing{UUID: b}, b) // nobody knows where it was
	other, _ := n.Add("b:1")
	v = lost()
	wantNot(v, v.Missing[0], "answers there now")
	if err := other.SwapNote(t.Context(), "pool", "", "q"); err != nil {
		t.Fatal(err)
	}
	wantNot(v, pool.Missing{Addr: "b:1"}, "belongs to pool q")
}

// TestReachEndsWithItsCaller: who gives up is not kept.
func TestReachEndsWithItsCaller(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	entered := make(chan struct{})
	stuck, err := n.Dial("a:1")
	if err != nil {
		t.Fatal(err)
	}
	set, err := pool.Open(pool.Config{Pools: []pool.Settings{list("a:1")}}, pool.Options{
		Dial: func(string) (pool.Remote, error) { return &hung{Remote: stuck, entered: entered}, nil }, ProbeTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := set.Reach(ctx, pool.View{Pool: "p"}, pool.Missing{UUID: a, Addr: "a:1"})
		done <- err
	}()
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("%v", err)
	}
}

// hung says nothing until its caller gives up.
type hung struct {
	pool.Remote
	entered chan struct{}
}

func (h *hung) Status(ctx context.Context) (store.Status, error) {
	close(h.entered)
	<-ctx.Done()
	return store.Status{}, ctx.Err()
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// TestViewAgesFromItsEnd: a discovery that lasts longer than a view is good for, as each
// does while a store is dead, serves those who come right after it nevertheless.
func TestViewAgesFromItsEnd(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	now := &clock{t: time.Unix(1e9, 0)}
	looked := 0
	n.SetFate(func(_, op string) pooltest.Fate {
		if op == "Status" {
			looked++
			now.pass(3 * time.Second)
		}
		return pooltest.Pass
	})
	set, err := pool.Open(pool.Config{Pools: []pool.Settings{list("a:1")}}, pool.Options{Dial: n.Dial, MaxAge: 2 * time.Second, Now: now.now})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for i, want := range []int{1, 1, 2, 2} {
		if i == 2 {
			now.pass(2*time.Second + 1)
		}
		if _, err := set.View(t.Context(), "p"); err != nil || looked != want {
			t.Fatalf("view %d: %d looks, want %d (%v)", i, looked, want, err)
		}
	}
	if _, err := set.Fresh(t.Context(), "p"); err != nil || looked != 3 {
		t.Errorf("fresh: %d looks (%v)", looked, err)
	}
}

// TestJoinedStaysJoined: a member whose new address could not be noted in time has joined
// all the same; otherwise another store would decide about its volumes.
func TestJoinedStaysJoined(t *testing.T) {
	n := pooltest.New()
	s, a := n.Add("a:1")
	n.Add("b:1")
	settings := list("a:1", "b:1", "c:1")
	n.Put("c:1", nil)
	view(t, open(t, n, pool.Options{}, list("a:1", "b:1")))
	n.Put("a:1", nil)
	n.Put("c:1", s)
	n.SetFate(func(addr, op string) pooltest.Fate {
		if addr == "c:1" && op == "SwapNote" {
			return pooltest.Refuse
		}
		return pooltest.Pass
	})
	if m, ok := view(t, open(t, n, pool.Options{}, settings)).Member(a); !ok || !m.Joined || m.Addr != "c:1" {
		t.Errorf("%+v", m)
	}
}
