package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rawOf gives direct access to the socket of a plain unix or TCP connection. Any
// other connection (a pipe of tests, TLS) is used through net.Conn.
func rawOf(nc net.Conn) syscall.RawConn {
	switch c := nc.(type) {
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err == nil {
			return raw
		}
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		if err == nil {
			return raw
		}
	}
	return nil
}

// inlet is the receiving side of a connection. One goroutine uses it at a time.
type inlet struct {
	nc    net.Conn
	raw   syscall.RawConn
	step  func(fd uintptr) bool // in.attempt, bound once
	stall time.Duration
	stop  *atomic.Bool // reading shall end at the next message

	p      []byte
	n      int
	err    error
	dry    func() // called before waiting
	idle   func() // called after it; not nil: nothing of a message has been received yet
	parked bool
	armed  bool      // a read deadline is set
	due    time.Time // when the rest of the current message must be here
	flow   flow
	spare  []byte
}

func newInlet(nc net.Conn, stall time.Duration, stop *atomic.Bool, dry func()) *inlet {
	in := &inlet{nc: nc, raw: rawOf(nc), stall: stall, stop: stop, dry: dry, flow: flow{epoch: time.Now()}}
	in.step = in.attempt
	return in
}

// errStopped ends reading when the server shuts down in order.
var errStopped = errors.New("the server stopped reading")

// read receives at least one byte into p. Before it waits, or if it cannot know
// whether it will, it calls dry. If nothing is there yet and idle is not nil, it
// calls idle, after which p is no longer used, and returns 0 once there is something.
// Without idle it is in the middle of a message, the whole of which must arrive in
// time.
func (in *inlet) read(p []byte, idle func()) (int, error) {
	if idle != nil {
		in.settle()
	}
	if len(in.spare) > 0 {
		n := copy(p, in.spare)
		in.spare = in.spare[n:]
		return n, nil
	}
	if in.raw == nil {
		return in.readPlain(p, idle)
	}
	in.p, in.n, in.err, in.idle, in.parked = p, 0, nil, idle, false
	err := in.raw.Read(in.step)
	in.p, in.idle = nil, nil
	if in.armed {
		in.armed = false
		in.nc.SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = in.err
	}
	return in.n, in.classify(err)
}

// settle says that the message under way is complete: the next one has its own time.
func (in *inlet) settle() {
	in.due = time.Time{}
	in.flow.rest()
}

// attempt is called by the poller until it returns true.
func (in *inlet) attempt(fd uintptr) bool {
	if in.parked && in.p == nil {
		return true // there is something; the caller comes back with a buffer
	}
	n, err := unix.Read(int(fd), in.p)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), in.p)
	}
	switch {
	case err == unix.EAGAIN:
		// What becomes readable from here on is not missed: the poller was prepared
		// before the attempt to read.
		if !in.parked {
			in.parked = true
			in.dry()
		}
		if in.idle != nil {
			in.p = nil
			in.idle()
		} else if !in.armed {
			in.armed = true
			in.arm(len(in.p))
		}
		if in.stop.Load() { // set before the deadline that would wake us
			in.err = errStopped
			return true
		}
		return false
	case err != nil:
		in.err = err
	case n == 0:
		in.err = io.EOF
	default:
		in.n = n
		in.flow.moved(n)
	}
	return true
}

// arm gives the peer time for a message of which n more bytes are missing, once
// per message: a peer that drips bytes gains nothing.
func (in *inlet) arm(n int) {
	if in.due.IsZero() {
		in.due = time.Now().Add(in.stall + transferTime(n))
	}
	in.flow.wait()
	in.nc.SetReadDeadline(in.due)
}

// transferTime is what n bytes may take beyond the stall time.
func transferTime(n int) time.Duration {
	const slowest = 1 << 20 // bytes per second
	return time.Duration(n) * time.Second / slowest
}

func (in *inlet) readPlain(p []byte, idle func()) (int, error) {
	in.dry()
	if idle != nil {
		idle()
		in.nc.SetReadDeadline(time.Time{})
		p = make([]byte, 512)
	} else {
		in.arm(len(p))
	}
	if in.stop.Load() {
		return 0, errStopped
	}
	n, err := in.nc.Read(p)
	in.flow.moved(n)
	if idle != nil {
		in.spare, n = p[:n], 0
	}
	if n > 0 || len(in.spare) > 0 {
		err = nil
	}
	return n, in.classify(err)
}

// classify tells an orderly stop from a peer that stalls.
func (in *inlet) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case in.stop.Load():
		return errStopped
	case isTimeout(err):
		return fmt.Errorf("the peer stalled in the middle of a message: %w", err)
	}
	return err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// outlet is the sending side of a connection, shared by all who reply. After a
// failure the connection is closed and everything else is dropped.
type outlet struct {
	nc    net.Conn
	raw   syscall.RawConn
	step  func(fd uintptr) bool
	stall time.Duration

	flow flow

	mu     sync.Mutex
	p      []byte
	armed  bool
	err    error
	failed error
}

func newOutlet(nc net.Conn, stall time.Duration) *outlet {
	o := &outlet{nc: nc, raw: rawOf(nc), stall: stall, flow: flow{epoch: time.Now()}}
	o.step = o.attempt
	return o
}

// send sends p wholly. A peer that does not take it in time is dropped.
func (o *outlet) send(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(p)
}

// sendAll sends several pieces with nothing between them.
func (o *outlet) sendAll(pieces [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range pieces {
		o.write(p)
	}
}

// failure is the error that ended sending, if any.
func (o *outlet) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

func (o *outlet) write(p []byte) {
	if o.failed != nil || len(p) == 0 {
		return
	}
	defer o.flow.rest()
	var err error
	if o.raw != nil {
		err = o.writeRaw(p)
	} else {
		err = o.writePlain(p)
	}
	if err != nil {
		o.failed = fmt.Errorf("send a reply: %w", err)
		o.nc.Close()
	}
}

func (o *outlet) writeRaw(p []byte) error {
	o.p, o.err = p, nil
	err := o.raw.Write(o.step)
	o.p = nil
	if o.armed {
		o.armed = false
		o.nc.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		err = o.err
	}
	return err
}

// attempt is called by the poller until it returns true.
func (o *outlet) attempt(fd uintptr) bool {
	for len(o.p) > 0 {
		n, err := unix.Write(int(fd), o.p)
		switch err {
		case nil:
			o.p = o.p[n:]
			o.flow.moved(n)
		case unix.EINTR:
		case unix.EAGAIN:
			if !o.armed {
				o.armed = true
				o.flow.wait()
				o.nc.SetWriteDeadline(time.Now().Add(o.stall + transferTime(len(o.p))))
			}
			return false
		default:
			o.err = err
			return true
		}
	}
	return true
}

func (o *outlet) writePlain(p []byte) error {
	o.flow.wait()
	o.nc.SetWriteDeadline(time.Now().Add(o.stall + transferTime(len(p))))
	_, err := o.nc.Write(p)
	return err
}
