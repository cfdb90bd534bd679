package nbd

import (
	"crypto/tls"
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

// rawOf gives direct access to the socket of a unix or TCP connection. Any other
// connection (a pipe of tests) is used through net.Conn.
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
	tls   *tls.Conn             // over raw, or nil
	step  func(fd uintptr) bool // in.attempt, bound once
	stall time.Duration
	stop  *atomic.Bool // reading shall end at the next message

	p      []byte
	n      int
	err    error
	want   int    // bytes that the caller of read has room for
	dry    func() // called before waiting
	idle   func() // called after it; not nil: nothing of a message has been received yet
	parked bool
	armed  bool      // a read deadline is set
	due    time.Time // when the rest of the current message must be here
	flow   flow
	first  []byte // where what TLS has decrypted is received while no turn is held
	spare  []byte
}

func newInlet(c *Conn, stall time.Duration, dry func()) *inlet {
	in := &inlet{nc: c.nc, raw: rawOf(c.nc), stall: stall, stop: &c.draining, dry: dry, flow: flow{epoch: time.Now()}}
	in.step = in.attempt
	if secure := c.secure.Load(); secure != nil {
		in.secure(secure)
	}
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
	in.idle, in.parked, in.want = idle, false, len(p)
	var n int
	var err error
	if in.tls != nil {
		n, err = in.readSecure(p)
	} else {
		n, err = in.receive(p)
	}
	in.idle = nil
	return n, in.classify(err)
}

// receive reads from the socket.
func (in *inlet) receive(p []byte) (int, error) {
	in.p, in.n, in.err = p, 0, nil
	err := in.raw.Read(in.step)
	in.p = nil
	if in.armed {
		in.armed = false
		in.nc.SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = in.err
	}
	return in.n, err
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
			if in.tls == nil {
				in.p = nil
			}
			in.idle()
		} else if !in.armed {
			in.armed = true
			in.arm(in.want)
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
// failure the connection is ended and everything else is dropped.
type outlet struct {
	conn  *Conn
	nc    net.Conn
	raw   syscall.RawConn
	tls   *tls.Conn // over raw, or nil
	step  func(fd uintptr) bool
	stall time.Duration

	flow flow

	mu     sync.Mutex
	size   atomic.Int64 // of the message under way, in bytes
	due    atomic.Int64 // when the peer must have taken it, in Unix nanoseconds; 0: it has not kept us waiting
	failed error

	// While a message is sent, these belong to writeRaw. Under TLS it is called with a
	// lock of TLS's own, for a message or for an answer to the peer's new keys.
	p     []byte
	armed bool
	err   error
}

func newOutlet(c *Conn, stall time.Duration) *outlet {
	o := &outlet{conn: c, nc: c.nc, raw: rawOf(c.nc), stall: stall, flow: flow{epoch: time.Now()}}
	o.step = o.attempt
	if secure := c.secure.Load(); secure != nil {
		o.secure(secure)
	}
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
	o.size.Store(int64(len(p)))
	defer o.flow.rest()
	defer o.due.Store(0)
	var err error
	switch {
	case o.raw == nil:
		err = o.writePlain(p)
	case o.tls != nil:
		_, err = o.tls.Write(p)
	default:
		err = o.writeRaw(p)
	}
	if err != nil {
		o.failed = fmt.Errorf("send a reply: %w", err)
		o.hangUp()
	}
}

// hangUp ends the connection for the peer and for our reader, who closes it. Closing it
// here would wait until nobody reads, for ever: the reader sends replies before it waits,
// so that it may be waiting for us, or be us.
func (o *outlet) hangUp() {
	if o.raw == nil {
		o.nc.Close()
		return
	}
	o.conn.drain()
	_ = o.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
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
				o.nc.SetWriteDeadline(o.deadline())
			}
			return false
		default:
			o.err = err
			return true
		}
	}
	return true
}

// deadline is when the peer must have taken the whole message, counted from when it
// first kept us waiting: one that takes it bit by bit gains nothing.
func (o *outlet) deadline() time.Time {
	if o.due.Load() == 0 {
		o.due.Store(time.Now().Add(o.stall + transferTime(int(o.size.Load()))).UnixNano())
	}
	return time.Unix(0, o.due.Load())
}

func (o *outlet) writePlain(p []byte) error {
	o.flow.wait()
	o.nc.SetWriteDeadline(time.Now().Add(o.stall + transferTime(len(p))))
	_, err := o.nc.Write(p)
	return err
}
