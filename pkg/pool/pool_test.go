package pool_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/pool/pooltest"
	"github.com/strata-csi/strata/pkg/store"
)

// resolver answers with what the test says at the moment.
type resolver struct {
	hosts []string
	err   error
}

func (r *resolver) LookupHost(context.Context, string) ([]string, error) { return r.hosts, r.err }

func open(t *testing.T, n *pooltest.Network, opts pool.Options, settings ...pool.Settings) *pool.Set {
	t.Helper()
	opts.Dial, opts.MaxAge = n.Dial, -1
	settings[0].Default = true
	set, err := pool.Open(pool.Config{Pools: settings}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

func view(t *testing.T, set *pool.Set) pool.View {
	t.Helper()
	v, err := set.View(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func list(addrs ...string) pool.Settings { return pool.Settings{Name: "p", Members: addrs} }

// TestMissingMemberIsKnown: after any restart a member that does not answer is known to be
// missing, although only the others could say so.
func TestMissingMemberIsKnown(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	_, b := n.Add("b:1")
	r := &resolver{hosts: []string{"a", "b"}}
	service := pool.Settings{Name: "p", Service: "s:1"}
	v := view(t, open(t, n, pool.Options{Resolver: r}, service))
	if len(v.Members) != 2 || v.Err() != nil || !v.Members[0].Joined || !v.Members[1].Joined {
		t.Fatalf("at first: %+v, %v", v, v.Err())
	}
	n.SetDown("b:1", true)
	r.hosts = []string{"a"} // and the service does not name it any more
	set := open(t, n, pool.Options{Resolver: r}, service)
	v = view(t, set)
	err := v.Err()
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), b) || !strings.Contains(err.Error(), "b:1") {
		t.Errorf("the missing store is not named: %v", err)
	}
	if known := v.Known(); !slices.Contains(known, a) || !slices.Contains(known, b) || len(known) != 2 {
		t.Errorf("known are %q", known)
	}
	if _, err := set.Find(t.Context(), "p", b); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("found the missing store: %v", err)
	}
	n.SetDown("b:1", false) // the remembered address is asked, although nobody names it
	if v = view(t, set); v.Err() != nil || len(v.Members) != 2 {
		t.Errorf("when it is back: %+v, %v", v, v.Err())
	}
}

// TestNobodyAnswers: a pool of which nothing is seen is unavailable, never empty.
func TestNobodyAnswers(t *testing.T) {
	gone := &net.DNSError{IsNotFound: true}
	for _, r := range []*resolver{{}, {err: gone}, {err: errors.New("timeout")}} {
		v := view(t, open(t, pooltest.New(), pool.Options{Resolver: r}, pool.Settings{Name: "p", Service: "s:1"}))
		if !errors.Is(v.Err(), store.ErrUnavailable) {
			t.Errorf("%+v: %v", r, v.Err())
		}
	}
	v := view(t, open(t, pooltest.New(), pool.Options{}, list("a:1")))
	if !errors.Is(v.Err(), store.ErrUnavailable) || !strings.Contains(v.Err().Error(), "a:1") {
		t.Errorf("%v", v.Err())
	}
}

// TestAddressChanges: a store is its UUID; a pod that comes back elsewhere is the same.
func TestAddressChanges(t *testing.T) {
	n := pooltest.New()
	s, a := n.Add("a:1")
	n.Add("b:1")
	r := &resolver{hosts: []string{"a", "b"}}
	set := open(t, n, pool.Options{Resolver: r}, pool.Settings{Name: "p", Service: "s:1"})
	view(t, set)
	n.Put("a:1", nil)
	n.Put("c:1", s)
	r.hosts = []string{"b", "c"}
	m, err := set.Find(t.Context(), "p", a)
	if err != nil || m.Addr != "c:1" || view(t, set).Err() != nil {
		t.Errorf("%v, %v", m, err)
	}
	// The new address is remembered where the old one was.
	r.hosts = []string{"b"}
	if v := view(t, open(t, n, pool.Options{Resolver: r}, pool.Settings{Name: "p", Service: "s:1"})); v.Err() != nil {
		t.Errorf("after a restart: %v", v.Err())
	}
}

// TestEmptyStoreUnderOldAddress: a store with another UUID where a member was is refused
// until that member is found elsewhere or given up.
func TestEmptyStoreUnderOldAddress(t *testing.T) {
	n := pooltest.New()
	old, a := n.Add("a:1")
	n.Add("b:1")
	set := open(t, n, pool.Options{}, list("a:1", "b:1"))
	view(t, set)
	_, imposter := n.Add("a:1")
	v := view(t, open(t, n, pool.Options{}, list("a:1", "b:1")))
	if _, ok := v.Member(imposter); ok || len(v.Refused) != 1 || v.Refused[0].UUID != imposter {
		t.Fatalf("it was not refused: %+v", v)
	}
	if err := v.Err(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), "forget") {
		t.Errorf("%v", err)
	}
	if _, err := set.Find(t.Context(), "p", a); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the old store was found: %v", err)
	}
	n.Put("c:1", old) // it has only moved: both are members now
	v = view(t, open(t, n, pool.Options{}, list("a:1", "b:1", "c:1")))
	if v.Err() != nil || len(v.Members) != 3 {
		t.Errorf("after the move: %+v, %v", v, v.Err())
	}
}

// TestConfirm: a member notices that another store answers at its address.
func TestConfirm(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	m, err := open(t, n, pool.Options{}, list("a:1")).Find(t.Context(), "", a)
	if err != nil || m.Confirm(t.Context()) != nil {
		t.Fatal(err, m.Confirm(t.Context()))
	}
	n.Add("a:1")
	if err := m.Confirm(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("another store passes: %v", err)
	}
}

// TestJoining: a store takes no volumes before every known member has noted it.
func TestJoining(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	_, b := n.Add("b:1")
	view(t, open(t, n, pool.Options{}, list("a:1", "b:1")))
	n.SetDown("b:1", true)
	_, c := n.Add("c:1")
	set := open(t, n, pool.Options{}, list("a:1", "b:1", "c:1"))
	if m, ok := view(t, set).Member(c); !ok || m.Joined {
		t.Errorf("it joined although %s has not heard of it", b)
	}
	n.SetDown("b:1", false)
	if m, ok := view(t, set).Member(c); !ok || !m.Joined {
		t.Errorf("it did not join: %+v", m)
	}
	n.SetDown("a:1", true) // b knows it too
	n.SetDown("c:1", true)
	if v := view(t, open(t, n, pool.Options{}, list("b:1"))); len(v.Known()) != 3 {
		t.Errorf("b knows only %q", v.Known())
	}
}

// TestObserver: a node reads the books and writes nothing.
func TestObserver(t *testing.T) {
	n := pooltest.New()
	s, _ := n.Add("a:1")
	view(t, open(t, n, pool.Options{Observe: true}, list("a:1")))
	if err := s.Notes(t.Context(), "", func(k, v string) error { t.Errorf("it wrote %s = %s", k, v); return nil }); err != nil {
		t.Error(err)
	}
}

// TestOtherPoolsStore: a store belongs to one pool.
func TestOtherPoolsStore(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	n.Add("b:1")
	view(t, open(t, n, pool.Options{}, list("a:1")))
	v := view(t, open(t, n, pool.Options{}, pool.Settings{Name: "q", Members: []string{"a:1", "b:1"}}))
	if len(v.Members) != 1 || len(v.Refused) != 1 || !strings.Contains(v.Refused[0].Reason, "pool p") {
		t.Errorf("%+v", v)
	}
}

func TestForget(t *testing.T) {
	n := pooltest.New()
	_, a := n.Add("a:1")
	gone, b := n.Add("b:1")
	n.Add("c:1")
	settings := list("a:1", "b:1", "c:1")
	set := open(t, n, pool.Options{}, settings)
	ctx := t.Context()
	view(t, set)
	if err := set.Forget(ctx, "p", b); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a store that answers was forgotten: %v", err)
	}
	if err := set.Forget(ctx, "p", "b:1"); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("forgot an address: %v", err)
	}
	n.SetDown("b:1", true)
	n.SetDown("c:1", true)
	if err := set.Forget(ctx, "p", b); err != nil {
		t.Fatal(err)
	}
	n.SetDown("c:1", false) // it was away, and is told
	n.SetDown("a:1", true)
	for _, s := range []*pool.Set{set, open(t, n, pool.Options{}, settings)} {
		n.SetDown("a:1", false)
		v := view(t, s)
		if v.Err() != nil || !slices.Contains(v.Forgotten, b) || slices.Contains(v.Known(), b) {
			t.Errorf("not forgotten: %+v, %v", v, v.Err())
		}
		if _, err := s.Find(ctx, "p", b); !errors.Is(err, store.ErrFenced) || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("where is it: %v", err)
		}
		n.SetDown("a:1", true)
		if v = view(t, s); !slices.Contains(v.Forgotten, b) || !slices.Contains(v.Known(), a) {
			t.Errorf("c has not heard of it: %+v", v)
		}
	}
	n.SetDown("a:1", false)
	n.Put("b:1", gone)
	n.SetDown("b:1", false)
	if v := view(t, set); len(v.Refused) != 1 || v.Refused[0].UUID != b {
		t.Errorf("it came back by itself: %+v", v)
	}
	if err := set.Admit(ctx, "p", b); err != nil {
		t.Fatal(err)
	}
	if v := view(t, open(t, n, pool.Options{}, settings)); v.Err() != nil || len(v.Members) != 3 {
		t.Errorf("not admitted: %+v, %v", v, v.Err())
	}
	if err := set.Admit(ctx, "p", b); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("admitted twice: %v", err)
	}
}

// TestForgetUnknown: when the only store that knew a member is gone as well, it can be
// given up nevertheless.
func TestForgetUnknown(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	set := open(t, n, pool.Options{}, list("a:1"))
	lost := string(store.NewID())
	if err := set.Forget(t.Context(), "", lost); err != nil {
		t.Fatal(err)
	}
	if v := view(t, set); !slices.Contains(v.Forgotten, lost) || v.Err() != nil {
		t.Errorf("%+v", v)
	}
	n.SetDown("a:1", true)
	if err := set.Forget(t.Context(), "", string(store.NewID())); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("forgot without writing it down: %v", err)
	}
}

// TestLocal: the socket of a store on the same host is preferred, and the address that
// others know is the one that is remembered.
func TestLocal(t *testing.T) {
	n := pooltest.New()
	s, a := n.Add("a:1")
	n.Put("unix:/data/api.sock", s)
	set := open(t, n, pool.Options{}, pool.Settings{Name: "p", Members: []string{"a:1"}, Local: "/data"})
	m, err := set.Find(t.Context(), "p", a)
	if err != nil || m.Addr != "unix:/data/api.sock" || !m.Local {
		t.Fatalf("%+v, %v", m, err)
	}
	if addr, err := s.Note(t.Context(), "member/"+a); err != nil || addr != "a:1" {
		t.Errorf("remembered is %q, %v", addr, err)
	}
	uris, err := set.Endpoints(t.Context(), "p", m)
	if want := []string{"nbd+unix:///?socket=/data/nbd.sock", "nbd://localhost:10809"}; err != nil || !slices.Equal(uris, want) {
		t.Errorf("%q, %v, want %q", uris, err, want)
	}
	n.Put("unix:/data/api.sock", nil)
	if m, err = set.Find(t.Context(), "p", a); err != nil || m.Local {
		t.Fatalf("%+v, %v", m, err)
	}
	uris, err = set.Endpoints(t.Context(), "p", m)
	if want := []string{"nbd://a:10809"}; err != nil || !slices.Equal(uris, want) {
		t.Errorf("%q, %v, want %q", uris, err, want)
	}
}

func TestLookup(t *testing.T) {
	n := pooltest.New()
	s, a := n.Add("a:1")
	n.Add("b:1")
	set := open(t, n, pool.Options{}, list("a:1", "b:1"))
	ctx := t.Context()
	if _, err := s.Create(ctx, store.Spec{Name: "x", Size: store.Block}); err != nil {
		t.Fatal(err)
	}
	if m, info, err := set.Lookup(ctx, "p", "x"); err != nil || m.UUID != a || info.Name != "x" {
		t.Errorf("%v, %v, %v", m, info, err)
	}
	if _, _, err := set.Lookup(ctx, "p", "y"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	n.SetDown("b:1", true)
	if _, _, err := set.Lookup(ctx, "p", "y"); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	if _, _, err := set.Lookup(ctx, "q", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// TestViewIsShared: callers that come together are served by one discovery, one that
// comes later by a later one; a slow store holds nobody up for longer than its time.
// waits tells when somebody waits for it to end.
type waits struct {
	context.Context
	told chan<- struct{}
}

func (w waits) Done() <-chan struct{} {
	w.told <- struct{}{}
	return w.Context.Done()
}

func TestViewIsShared(t *testing.T) {
	n := pooltest.New()
	n.Add("a:1")
	set := open(t, n, pool.Options{ProbeTimeout: time.Minute}, list("a:1"))
	view(t, set)
	hold, entered := make(chan struct{}), make(chan struct{}, 100)
	n.SetFate(func(_, op string) pooltest.Fate {
		if op == "Status" {
			entered <- struct{}{}
			<-hold
		}
		return pooltest.Pass
	})
	done := make(chan error, 8)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan struct{}, 100)
	for range 7 {
		go func() { _, err := set.View(waits{t.Context(), waiting}, ""); done <- err }()
	}
	<-entered
	for range 7 {
		<-waiting
	}
	go func() { _, err := set.View(ctx, ""); done <- err }()
	cancel() // only its own wait ends
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(hold)
	for range 7 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if more := len(entered); more > 2 {
		t.Errorf("%d more discoveries for callers that came together", more)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, o := range []pool.Options{{}, {Dial: pooltest.New().Dial}} {
		cfg := pool.Config{}
		if o.Dial == nil {
			cfg.Pools = []pool.Settings{list("a:1")}
		}
		if _, err := pool.Open(cfg, o); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
}
