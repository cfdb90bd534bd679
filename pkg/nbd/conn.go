package nbd

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is one client's connection, as a Backend sees it. All methods may be called
// at any time by any goroutine.
type Conn struct {
	srv      *Server
	nc       net.Conn
	listener *listening
	cred     *unix.Ucred // nil unless it is a unix socket
	peer     *peer       // whose connection it is; set before serve

	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	cut    chan struct{} // closed by Cut
	why    error         // of the cut; set before it
	done   chan struct{}

	secure  atomic.Pointer[tls.Conn] // once the TLS handshake is done
	session atomic.Pointer[session]  // once in the transmission phase

	draining atomic.Bool // no further message is read

	// half is the place among the half-open handshakes of the listener, counted
	// tells that it is past the handshake; both are guarded by Server.mu.
	half    *list.Element
	counted bool
}

func newConn(srv *Server, nc net.Conn, l *listening) *Conn {
	c := &Conn{srv: srv, nc: nc, listener: l, cut: make(chan struct{}), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if u, ok := nc.(*net.UnixConn); ok {
		c.cred = peerOf(u)
	}
	if t, ok := nc.(*net.TCPConn); ok {
		// A peer that vanished without a word must not hold its session for long.
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
	return c
}

// peerOf asks the kernel who connected.
func peerOf(u *net.UnixConn) *unix.Ucred {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || cerr != nil {
		return nil
	}
	return cred
}

// Network is the listener's network: "unix", "tcp" or what it calls itself.
func (c *Conn) Network() string { return c.nc.LocalAddr().Network() }

// RemoteAddr is the peer's address; that of a unix socket says nothing.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// PeerPID is the process at the other end of a unix socket when it connected.
func (c *Conn) PeerPID() (pid int, ok bool) {
	if c.cred == nil {
		return 0, false
	}
	return int(c.cred.Pid), true
}

// PeerUID is the user at the other end of a unix socket when it connected.
func (c *Conn) PeerUID() (uid int, ok bool) {
	if c.cred == nil {
		return 0, false
	}
	return int(c.cred.Uid), true
}

// String names the peer for logs and messages.
func (c *Conn) String() string {
	if pid, ok := c.PeerPID(); ok {
		return fmt.Sprintf("process %d", pid)
	}
	return c.RemoteAddr().String()
}

// Cut ends the connection at once: nothing more is read, what was not read is
// dropped, replies may be lost. Requests that have been started go on; when the
// last of them has left the export and the export is closed, Done closes.
func (c *Conn) Cut() { c.end(errCut) }

// end is Cut for a reason, which Config.Closed is told.
func (c *Conn) end(why error) {
	c.once.Do(func() {
		c.why = why
		c.draining.Store(true)
		close(c.cut)
		c.cancel()
		c.nc.Close()
	})
}

// Done is closed once no request of this connection can reach the export any more.
func (c *Conn) Done() <-chan struct{} { return c.done }

func (c *Conn) isCut() bool {
	select {
	case <-c.cut:
		return true
	default:
		return false
	}
}

// drain asks the connection to end at the next message boundary.
func (c *Conn) drain() {
	c.draining.Store(true)
	c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// serve is the life of the connection.
func (c *Conn) serve() {
	defer c.srv.forget(c)
	defer close(c.done)
	defer c.Cut()
	err := c.talk()
	if c.srv.cfg.Closed != nil {
		if c.isCut() {
			err = c.why
		}
		c.srv.cfg.Closed(c, err)
	}
}

// talk runs the handshake and the transmission phase. The error is nil when the
// client ended the connection properly.
func (c *Conn) talk() error {
	h := &handshake{c: c}
	ex, err := h.run()
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if ex == nil {
		c.farewell()
		return nil
	}
	defer c.farewell()
	s := newSession(c, ex, h)
	s.aligned = h.aligned
	c.session.Store(s)
	err = s.run()
	if cerr := ex.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close the export: %w", cerr))
	}
	return err
}
