package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// patient is a server on which nothing times out by itself.
func patient(t *testing.T, impatience time.Duration) (r *rig, cuts chan error) {
	cuts = make(chan error, 1000)
	r = newRig(t, 64<<20, Config{Budget: 1, StallTimeout: time.Hour, Impatience: impatience, Closed: func(_ *Conn, err error) {
		cuts <- err
	}})
	return r, cuts
}

// honest is a client that gives up before the test does.
func (r *rig) honest() *Client {
	r.t.Helper()
	d := r.dialer()
	d.Timeout = testPatience
	c, err := d.Dial(context.Background(), r.uri())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// queued tells how many wait for memory of a kind.
func (r *rig) queued(k kind) int {
	b := &r.srv.mem.parts[k]
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiters.Len()
}

func (r *rig) serves(c *Client, sizes ...int) {
	r.t.Helper()
	for _, n := range sizes {
		p, q := bytes.Repeat([]byte{byte(n >> 8), 7}, n/2), make([]byte, n)
		if _, err := c.WriteAt(p, 4096); err != nil {
			r.t.Fatalf("write %d bytes: %v", n, err)
		}
		if _, err := c.ReadAt(q, 4096); err != nil || !bytes.Equal(p, q) {
			r.t.Fatalf("read %d bytes: %v", n, err)
		}
	}
	if err := c.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

// Peers that hold all memory for large requests are not in the way of smaller ones.
func TestSizesHaveTheirOwnMemory(t *testing.T) {
	t.Run("stalled writes", func(t *testing.T) {
		r, cuts := patient(t, time.Hour)
		c := r.honest()
		for range 5 {
			w := r.simple()
			w.send(append(header(0, cmdWrite, 1, 0, MaxPayload), 1, 2, 3))
			defer w.Close()
		}
		eventually(t, "the stalled wait for each other", func() bool { return r.queued(larges) == 4 })
		r.serves(c, 4096, 64<<10, 1<<20, 4<<20)
		if len(cuts) > 0 {
			t.Errorf("a connection ended: %v", <-cuts)
		}
	})
	t.Run("replies that nobody takes", func(t *testing.T) {
		r, cuts := patient(t, time.Hour)
		c := r.honest()
		for range 5 {
			w := r.simple()
			for i := range uint64(10) {
				w.send(header(0, cmdRead, i, 0, MaxPayload))
			}
			defer w.Close()
		}
		eventually(t, "the stalled wait for each other", func() bool { return r.queued(larges) == 4 })
		r.serves(c, 4096, 64<<10, 1<<20, 4<<20)
		if len(cuts) > 0 {
			t.Errorf("a connection ended: %v", <-cuts)
		}
	})
}

// While somebody waits for it, memory is taken from those who stall, and from
// nobody else.
func TestStalledPeersAreCutWhenOthersWait(t *testing.T) {
	stall := map[string]func(w *wire){
		"stalled writes": func(w *wire) {
			w.send(append(header(0, cmdWrite, 1, 0, MaxPayload), 1, 2, 3))
		},
		"replies that nobody takes": func(w *wire) {
			w.send(append(header(0, cmdRead, 1, 0, MaxPayload), header(0, cmdRead, 1, 0, MaxPayload)...))
		},
	}
	for name, f := range stall {
		t.Run(name, func(t *testing.T) {
			r, cuts := patient(t, 50*time.Millisecond)
			c := r.honest()
			bystander := r.simple() // holds memory that nobody waits for
			bystander.send(append(header(0, cmdWrite, 1, 0, 1<<20), 1, 2, 3))
			eventually(t, "the bystander holds its memory", func() bool {
				used, _ := r.srv.mem.parts[mediums].usage()
				return used == costOf(1<<20)
			})
			const stalled = 4
			for i := range stalled {
				f(r.simple())
				eventually(t, "it holds or waits for memory", func() bool {
					used, _ := r.srv.mem.parts[larges].usage()
					return used > 0 && r.queued(larges) >= i-len(cuts)
				})
			}
			r.serves(c, 16<<20)
			for range stalled {
				if err := <-cuts; !errors.Is(err, errInTheWay) {
					t.Errorf("a connection ended with %v", err)
				}
				r.serves(c, 16<<20) // no stall of one, no cut of the next
			}
			bystander.SetDeadline(time.Now().Add(testPatience))
			bystander.send(make([]byte, 1<<20-3))
			bystander.expect("67446698 00000000 0000000000000001")
			if len(cuts) > 0 {
				t.Errorf("one more connection ended: %v", <-cuts)
			}
		})
	}
}

// Beginnings of requests that take up all memory for receiving give way, too.
func TestStalledHeadersAreCutWhenOthersWait(t *testing.T) {
	r, cuts := patient(t, 50*time.Millisecond)
	c := r.honest()
	most := int(r.srv.mem.parts[turns].most / turnCost)
	for range most {
		r.simple().send(header(0, cmdWrite, 1, 0, 4096)[:20])
	}
	eventually(t, "one peer has all it may have", func() bool {
		used, _ := r.srv.mem.parts[turns].usage()
		return used == int64(most)*turnCost
	})
	r.serves(c, 4096)
	for len(cuts) > 0 {
		if err := <-cuts; !errors.Is(err, errInTheWay) {
			t.Errorf("a connection ended with %v", err)
		}
	}
}

// overTCP is a client that counts as another peer than those on the unix socket.
func (r *rig) overTCP() (uri string, connect func() *wire) {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.serve(l)
	address := l.Addr().String()
	connect = func() *wire {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { nc.Close() })
		w := &wire{t: r.t, Conn: nc}
		w.greet()
		w.send(appendOption(nil, optExportName, []byte("disk")))
		w.skip(10)
		return w
	}
	return Target{Network: "tcp", Address: address, Export: "disk"}.String(), connect
}

// A peer that stalls on many connections leaves memory of every kind to others.
func TestPeersLeaveRoomForOthers(t *testing.T) {
	r := newRig(t, 64<<20, Config{StallTimeout: time.Hour, Impatience: time.Hour})
	uri, _ := r.overTCP()
	for range 5 {
		r.simple().send(append(header(0, cmdWrite, 1, 0, MaxPayload), 1, 2, 3))
	}
	eventually(t, "one peer has all it may have", func() bool { return r.queued(larges) == 3 })
	c, err := (&Dialer{Timeout: testPatience}).Dial(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.serves(c, 4096, 1<<20, 16<<20)
}

// Who waits for memory of its own peer is helped at the cost of that peer alone.
func TestPeersPayForThemselves(t *testing.T) {
	cuts := make(chan *Conn, 10)
	r := newRig(t, 64<<20, Config{StallTimeout: time.Hour, Impatience: 50 * time.Millisecond, Closed: func(c *Conn, err error) {
		if errors.Is(err, errInTheWay) {
			cuts <- c
		}
	}})
	_, connect := r.overTCP()
	other := connect()
	other.send(append(header(0, cmdWrite, 1, 0, MaxPayload), 1, 2, 3))
	held := func(n int64) func() bool {
		return func() bool {
			used, _ := r.srv.mem.parts[larges].usage()
			return used == n*costOf(MaxPayload)
		}
	}
	eventually(t, "the other peer holds memory, and stalls the longest", held(1))
	for range 2 {
		r.simple().send(append(header(0, cmdWrite, 1, 0, MaxPayload), 1, 2, 3))
	}
	eventually(t, "all memory is held", held(3))
	r.serves(r.honest(), 16<<20)
	if c := <-cuts; c.Network() != "unix" {
		t.Error("the other peer was cut")
	}
	for len(cuts) > 0 {
		if c := <-cuts; c.Network() != "unix" {
			t.Error("the other peer was cut")
		}
	}
}

// The time for a message begins anew with each message, also for a client that
// always has the next one half sent.
func TestEachMessageHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(&backend{disks: map[string]*disk{"disk": newDisk(testSize)}}, Config{})
		l := &pipeListener{conns: make(chan net.Conn, 1), done: make(chan struct{})}
		go srv.Serve(context.Background(), l)
		near, far := net.Pipe()
		l.conns <- far
		w := &wire{t: t, Conn: near}
		w.greet()
		w.send(appendOption(nil, optExportName, []byte("disk")))
		w.skip(10)
		go io.Copy(io.Discard, near)
		message := header(0, cmdRead, 1, 0, 512)
		w.send(message[:10])
		for range 120 {
			<-time.After(time.Second)
			w.send(append(message[10:], message[:10]...))
		}
		w.send(message[10:])
		near.Close()
		if err := srv.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
