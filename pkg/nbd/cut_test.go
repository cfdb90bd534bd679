package nbd

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func syscallPID() int { return os.Getpid() }
func syscallUID() int { return os.Getuid() }

// seed is printed, and taken from STRATA_SEED if that is set.
func seed(t testing.TB) *rand.Rand {
	s := uint64(time.Now().UnixNano())
	if env := os.Getenv("STRATA_SEED"); env != "" {
		n, err := strconv.ParseUint(env, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s = n
	}
	t.Logf("replay with STRATA_SEED=%d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// conns collects the server's side of each connection as it is opened.
func (r *rig) conns() <-chan *Conn {
	opened := make(chan *Conn, 100)
	r.b.onOpen = func(_ context.Context, _ string, c *Conn) error { opened <- c; return nil }
	return opened
}

func isDone(c *Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// After Done no request reaches the export, whatever was in the pipe.
func TestCutUnderLoad(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, testSize, Config{})
	opened := r.conns()
	var fenced atomic.Bool
	var late atomic.Int64
	r.d.before = func(string, int64, int64) error {
		if fenced.Load() {
			late.Add(1)
		}
		return nil
	}
	for range 60 {
		fenced.Store(false)
		c, err := r.dialer().Dial(context.Background(), r.uri())
		if err != nil {
			t.Fatal(err)
		}
		conn := <-opened
		var wg sync.WaitGroup
		for range 8 {
			size := []int{512, 4096, 65536, 200000}[rnd.IntN(4)]
			wg.Add(1)
			go func() {
				defer wg.Done()
				p := make([]byte, size)
				for {
					if _, err := c.WriteAt(p, 0); err != nil {
						return
					}
				}
			}()
		}
		<-time.After(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		conn.Cut()
		conn.Cut()
		<-conn.Done()
		fenced.Store(true)
		if n := r.d.active.Load(); n != 0 {
			t.Errorf("%d requests are active after Done", n)
		}
		wg.Wait()
		c.Close()
	}
	if late.Load() != 0 {
		t.Errorf("%d requests began after Done", late.Load())
	}
}

// Done waits for requests that were started, whether inline or by a worker, and
// the export is closed after them.
func TestDoneWaitsForStartedRequests(t *testing.T) {
	for _, n := range []uint32{1, 4096, 1 << 20} {
		r := newRig(t, testSize, Config{})
		opened := r.conns()
		g := newGate(t)
		r.d.before = func(string, int64, int64) error { g.pass(); return nil }
		w := r.simple()
		conn := <-opened
		w.send(append(header(0, cmdWrite, 1, 0, n), make([]byte, n)...))
		w.send(header(0, cmdFlush, 2, 0, 0))
		<-g.entered
		<-g.entered
		conn.Cut()
		w.expectEnd()
		if isDone(conn) || r.d.closes.Load() != 0 {
			t.Error("the connection is done while requests are active")
		}
		g.open()
		<-conn.Done()
		if r.d.active.Load() != 0 || r.d.closes.Load() != 1 {
			t.Errorf("%d requests are active, closed %d times", r.d.active.Load(), r.d.closes.Load())
		}
	}
}

// A request that was not received wholly when the connection is cut never starts.
func TestCutDropsPartialRequests(t *testing.T) {
	r := newRig(t, testSize, Config{})
	opened := r.conns()
	w := r.simple()
	conn := <-opened
	w.send(header(0, cmdWrite, 1, 0, 1<<20))
	w.send(make([]byte, 1000))
	conn.Cut()
	<-conn.Done()
	if r.d.calls.Load() != 0 {
		t.Error("the export was called")
	}
}

// One connection may cut another while it is being opened, and wait for it.
func TestCutFromOpen(t *testing.T) {
	r := newRig(t, testSize, Config{})
	var last atomic.Pointer[Conn]
	r.b.onOpen = func(ctx context.Context, _ string, c *Conn) error {
		if old := last.Swap(c); old != nil {
			old.Cut()
			select {
			case <-old.Done():
			case <-ctx.Done():
				return ctx.Err()
			}
			if r.d.active.Load() != 0 {
				t.Error("the older connection is active")
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for range 20 {
		c := r.dial()
		for range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					if _, err := c.WriteAt(make([]byte, 100000), 0); err != nil {
						return
					}
				}
			}()
		}
	}
	last.Load().Cut()
	wg.Wait()
}

// Close lets started requests finish and sends their replies.
func TestCloseIsGraceful(t *testing.T) {
	r := newRig(t, testSize, Config{})
	g := newGate(t)
	r.d.before = func(op string, _, _ int64) error {
		if op == "write" {
			g.pass()
		}
		return nil
	}
	idle, half, busy := r.simple(), r.raw(), r.simple()
	if !half.greeted {
		half.skip(18)
	}
	for i, n := range []uint32{1 << 20, 4096} {
		busy.send(append(header(0, cmdWrite, uint64(i), 0, n), make([]byte, n)...))
		<-g.entered
	}
	closed := make(chan error, 1)
	go func() { closed <- r.srv.Close(context.Background()) }()
	idle.expectEnd()
	half.expectEnd()
	select {
	case <-closed:
		t.Error("Close did not wait")
	default:
	}
	g.open()
	busy.skip(2 * simpleSize)
	busy.expectEnd()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := r.dialer().Dial(context.Background(), r.uri()); err == nil {
		t.Error("the server accepts connections after Close")
	}
}

// When the context of Close ends, connections are cut, but never requests.
func TestCloseCuts(t *testing.T) {
	r := newRig(t, testSize, Config{})
	g := newGate(t)
	r.d.before = func(string, int64, int64) error { g.pass(); return nil }
	w := r.simple()
	w.send(header(0, cmdFlush, 1, 0, 0))
	<-g.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	closed := make(chan error, 1)
	go func() { closed <- r.srv.Close(ctx) }()
	w.expectEnd()
	g.open()
	if err := <-closed; !errors.Is(err, context.Canceled) {
		t.Errorf("Close returned %v", err)
	}
}
