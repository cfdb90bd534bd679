package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate holds chosen calls of an export until it is opened, at the latest at the end
// of the test.
type gate struct {
	once    sync.Once
	shut    chan struct{}
	entered chan struct{}
}

func newGate(t *testing.T) *gate {
	g := &gate{shut: make(chan struct{}), entered: make(chan struct{}, 1000)}
	t.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.shut) }) }

func (g *gate) pass() {
	g.entered <- struct{}{}
	<-g.shut
}

// eventually fails the test if the condition does not become true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testPatience / 2); !condition(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// While inline calls are stuck, what follows on the same connection is served, and
// replies that were ready before are not kept back.
func TestStandInsTakeOver(t *testing.T) {
	r := newRig(t, testSize, Config{})
	g := newGate(t)
	r.d.before = func(op string, off, n int64) error {
		if op == "write" && off >= 1<<20 {
			g.pass()
		}
		return nil
	}
	w := r.simple()
	const stuck = 100
	ready := append(header(0, cmdWrite, 1, 0, 1), 'x')
	for i := range uint64(stuck) {
		ready = append(ready, header(0, cmdWrite, 100+i, 1<<20+4096*i, 2)...)
		ready = append(ready, byte(i), byte(i>>8))
	}
	w.send(append(ready, header(0, cmdRead, 2, 0, 1)...))
	w.expect("67446698 00000000 0000000000000001")
	w.expect("67446698 00000000 0000000000000002 78")
	for range stuck {
		<-g.entered
	}
	g.open()
	seen := make(map[uint64]bool)
	for range stuck {
		b := w.skip(simpleSize)
		seen[binary.BigEndian.Uint64(b[8:])] = true
	}
	if len(seen) != stuck {
		t.Errorf("%d different requests were answered, want %d", len(seen), stuck)
	}
	for i := range stuck {
		if got := r.d.bytes(1<<20+4096*int64(i), 2); got[0] != byte(i) || got[1] != byte(i>>8) {
			t.Fatalf("write %d left %v", i, got)
		}
	}
}

// Requests of one connection do not grow without bound while the export hangs.
func TestInFlightIsBounded(t *testing.T) {
	r := newRig(t, testSize, Config{})
	g := newGate(t)
	r.d.before = func(string, int64, int64) error { g.pass(); return nil }
	w := r.simple()
	go func() {
		for i := range uint64(3 * maxInFlight) {
			w.Write(header(0, cmdFlush, i, 0, 0))
		}
	}()
	for range maxInFlight {
		<-g.entered
	}
	if n := r.d.active.Load(); n > maxInFlight+1 {
		t.Errorf("%d requests are active, at most %d may be", n, maxInFlight+1)
	}
	g.open()
	w.skip(3 * maxInFlight * simpleSize)
}

// Large requests together take more than the budget; they wait for each other.
func TestBudgetHolds(t *testing.T) {
	r := newRig(t, 64<<20, Config{Budget: 1})
	if limit := r.srv.Stats().Limit; limit != minBudget {
		t.Fatalf("the limit is %d, want %d", limit, minBudget)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		c := r.dial()
		for j := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				p := bytes.Repeat([]byte{byte(i)}, 8<<20)
				if _, err := c.WriteAt(p, int64(j)*8<<20); err != nil {
					t.Error(err)
				}
				if _, err := c.ReadAt(p, int64(j)*16<<20); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	wg.Wait()
	if st := r.srv.Stats(); st.Peak > st.Limit || st.Peak < 16<<20 {
		t.Errorf("%+v: the peak is wrong", st)
	}
}

// Clients that stop in the middle of a payload, or take no replies, neither keep
// others from working nor hold their memory for ever.
func TestStallingClients(t *testing.T) {
	r := newRig(t, 64<<20, Config{StallTimeout: 300 * time.Millisecond})
	closed := make(chan error, 100)
	r.srv.cfg.Closed = func(_ *Conn, err error) { closed <- err }
	stalls := 0
	for range 5 {
		w := r.simple()
		w.send(header(0, cmdWrite, 1, 0, 1<<20)) // no payload
		w = r.simple()
		w.send(append(header(0, cmdWrite, 1, 0, 4096), 1, 2, 3))
		w = r.simple()
		w.send(header(0, cmdRead, 1, 0, 1)[:5])
		w = r.simple()
		for range 8 {
			w.send(header(0, cmdRead, 1, 0, 1<<20)) // never received
		}
		stalls += 4
	}
	if _, err := r.dial().WriteAt(make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}
	for range stalls {
		if err := <-closed; err == nil || !strings.Contains(err.Error(), "stalled") && !strings.Contains(err.Error(), "send a reply") {
			t.Errorf("a stalling client was dropped because of %v", err)
		}
	}
}

// An idle connection holds no turn.
func TestIdleConnectionsHoldNothing(t *testing.T) {
	r := newRig(t, testSize, Config{})
	for range 20 {
		w := r.simple()
		w.status(0, cmdWrite, 0, 1, []byte{1})
	}
	eventually(t, "the last reader waits for requests", func() bool { return r.srv.Stats().Bytes == 0 })
}

// Thousands of clients that never finish their handshake do not keep out an
// honest one, nor do they pile up.
func TestHalfOpenHandshakes(t *testing.T) {
	r := newRig(t, testSize, Config{MaxHandshakes: 16, HandshakeTimeout: time.Hour})
	var conns []net.Conn
	for i := range 2000 {
		nc, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, nc)
		if i%100 == 0 {
			c, err := r.dialer().Dial(context.Background(), r.uri())
			if err != nil {
				t.Fatalf("an honest client after %d half-open ones: %v", i, err)
			}
			if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if len(conns) > 500 {
			conns[0].Close()
			conns = conns[1:]
		}
	}
	// Those that were dropped last are just leaving.
	eventually(t, "the older handshakes are dropped", func() bool { return r.srv.Stats().Handshakes <= 16 })
	for _, nc := range conns {
		nc.Close()
	}
}

func TestHandshakeTimesOut(t *testing.T) {
	r := newRig(t, testSize, Config{HandshakeTimeout: 50 * time.Millisecond})
	w := r.raw()
	w.skip(18)
	w.expectEnd()
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, testSize, Config{MaxConns: 2})
	a := r.dial()
	r.dial()
	_, err := r.dialer().Dial(context.Background(), r.uri())
	if err == nil || !strings.Contains(err.Error(), "limit of 2 connections") {
		t.Errorf("the third client gets %v", err)
	}
	a.Close()
	for {
		c, err := r.dialer().Dial(context.Background(), r.uri())
		if err == nil {
			c.Close()
			break
		}
		if !strings.Contains(err.Error(), "limit") {
			t.Fatal(err)
		}
	}
}

func TestPeerIsKnown(t *testing.T) {
	r := newRig(t, testSize, Config{})
	var pid, uid atomic.Int64
	r.b.onOpen = func(_ context.Context, _ string, c *Conn) error {
		p, _ := c.PeerPID()
		u, ok := c.PeerUID()
		if !ok || c.Network() != "unix" {
			t.Errorf("the peer of a %s socket is not known", c.Network())
		}
		pid.Store(int64(p))
		uid.Store(int64(u))
		return nil
	}
	r.dial()
	if pid.Load() != int64(syscallPID()) || uid.Load() != int64(syscallUID()) {
		t.Errorf("the peer is process %d of user %d", pid.Load(), uid.Load())
	}
}
