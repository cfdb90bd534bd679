package nbd

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Config bounds what clients may use. Zero values mean the defaults.
type Config struct {
	// Budget bounds the memory for requests and replies of all connections, in
	// bytes; at least about 74 MiB, default 256 MiB. An eighth of it is for requests of
	// up to 64 KiB, 3/16 for those of up to 4 MiB, 7/16 for larger ones and the rest
	// for receiving requests. One peer (a process on a unix socket, else a host) gets
	// at most two thirds of each.
	Budget int64
	// MaxConns bounds the connections past the handshake; default 4096. Further
	// clients are refused during the handshake.
	MaxConns int
	// MaxHandshakes bounds the handshakes under way per listener; default 128. When
	// one more client connects, the oldest of them is dropped.
	MaxHandshakes int
	// HandshakeTimeout is how long a handshake may take, without the time that the
	// Backend needs; default 15 s.
	HandshakeTimeout time.Duration
	// Impatience is how long a peer may keep the server waiting, likewise, while
	// others wait for memory that it holds; default a tenth of StallTimeout. It may
	// be behind a pace of 256 KiB/s by that much.
	Impatience time.Duration
	// StallTimeout is how long a peer may keep the server waiting in the middle of
	// a message or for taking a reply, plus one second per MiB; default 30 s.
	StallTimeout time.Duration
	// Closed, if set, is told of the end of each connection and its cause; nil is a
	// client that left properly. It must not block.
	Closed func(c *Conn, err error)
}

func (c Config) withDefaults() Config {
	if c.Budget == 0 {
		c.Budget = 256 << 20
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.MaxHandshakes == 0 {
		c.MaxHandshakes = 128
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 15 * time.Second
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = 30 * time.Second
	}
	if c.Impatience == 0 {
		c.Impatience = c.StallTimeout / 10
	}
	return c
}

// Server serves the exports of a Backend on any number of listeners.
type Server struct {
	backend Backend
	cfg     Config
	mem     *memory
	victims [kinds]victim

	mu        sync.Mutex
	closing   bool
	listeners map[*listening]struct{}
	conns     map[*Conn]struct{}
	peers     map[string]*peer
	serving   int // connections past the handshake
	wg        sync.WaitGroup
}

// listening is one listener; half holds its handshakes, oldest first.
type listening struct {
	net.Listener
	tls  *tls.Config // nil: no TLS here, else nothing without
	half list.List   // of *Conn, guarded by Server.mu
}

// NewServer makes a server. It does nothing before Serve.
func NewServer(b Backend, cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		backend: b, cfg: cfg, listeners: make(map[*listening]struct{}),
		conns: make(map[*Conn]struct{}), peers: make(map[string]*peer),
	}
	s.mem = newMemory(cfg.Budget, cfg.Impatience/8, s.relieve)
	return s
}

// ErrServerClosed is returned by Serve after Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Serve accepts connections on l, which it closes, until the context ends (nil),
// Close is called (ErrServerClosed) or accepting fails for good. Connections live
// on until Close.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, &listening{Listener: l})
}

// ServeTLS is Serve for clients that must use TLS 1.3: before that, nothing is told and
// nothing agreed upon. cfg should ask for client certificates and check them; what a
// Backend may conclude from them is in Conn.TLS.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, cfg *tls.Config) error {
	return s.serve(ctx, &listening{Listener: l, tls: serverTLS(cfg)})
}

func (s *Server) serve(ctx context.Context, ln *listening) error {
	l := ln.Listener
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		l.Close()
		return ErrServerClosed
	}
	s.listeners[ln] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := s.accept(ctx, ln)
	l.Close()
	s.mu.Lock()
	delete(s.listeners, ln)
	closing := s.closing
	s.mu.Unlock()
	switch {
	case closing:
		return ErrServerClosed
	case ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("nbd: accept on %s: %w", l.Addr(), err)
}

func (s *Server) accept(ctx context.Context, ln *listening) error {
	const mostDelay = time.Second
	delay := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err == nil {
			delay = 5 * time.Millisecond
			s.begin(nc, ln)
			continue
		}
		// Out of file descriptors or memory: that passes. Anything else does not.
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return err
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		delay = min(2*delay, mostDelay)
	}
}

// begin starts a connection's life, at the cost of the oldest half-open one if
// there are too many.
func (s *Server) begin(nc net.Conn, ln *listening) {
	c := newConn(s, nc, ln)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		c.Cut()
		return
	}
	var oldest *Conn
	if ln.half.Len() >= s.cfg.MaxHandshakes {
		oldest = s.evict(ln)
	}
	c.half = ln.half.PushBack(c)
	c.peer = s.join(c.peerKey())
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	if oldest != nil {
		oldest.Cut()
	}
	go c.serve()
}

// evict takes the oldest handshake off the list; mu is held.
func (s *Server) evict(ln *listening) *Conn {
	c := ln.half.Remove(ln.half.Front()).(*Conn)
	c.half = nil
	return c
}

// opening takes a connection off the half-open ones while its export is opened,
// so that it is not evicted. It refuses when there are too many connections.
func (s *Server) opening(c *Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || c.draining.Load() {
		return Refuse(Shutdown, "the server is shutting down")
	}
	if s.serving >= s.cfg.MaxConns {
		return Refuse(Policy, "the server has reached its limit of %d connections", s.cfg.MaxConns)
	}
	if c.half != nil {
		c.listener.half.Remove(c.half)
		c.half = nil
	}
	s.serving++
	c.counted = true
	return nil
}

// reopen puts a connection whose export was refused back among the half-open.
func (s *Server) reopen(c *Conn) {
	s.mu.Lock()
	s.serving--
	c.counted = false
	var oldest *Conn
	if c.listener.half.Len() >= s.cfg.MaxHandshakes {
		oldest = s.evict(c.listener)
	}
	c.half = c.listener.half.PushBack(c)
	s.mu.Unlock()
	if oldest != nil {
		oldest.Cut()
	}
}

// forget ends the books on a connection.
func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.part(c.peer)
	if c.half != nil {
		c.listener.half.Remove(c.half)
		c.half = nil
	}
	if c.counted {
		s.serving--
	}
	s.mu.Unlock()
	s.wg.Done()
}

// Close stops accepting, lets each connection finish the requests it has started
// and send their replies, and closes it. Clients see the connection close between
// two messages, never an error reply, so that they reconnect and send the rest
// again. When the context ends first, the remaining connections are cut; Close
// still waits for the requests they have started, and returns the context's error.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	for _, c := range conns {
		c.Cut()
	}
	<-done
	return fmt.Errorf("nbd: close: connections were cut: %w", ctx.Err())
}

// Stats says what a server holds at one instant.
type Stats struct {
	// Conns counts connections past the handshake, Handshakes those before.
	Conns, Handshakes int
	// Bytes is the memory in use for requests and replies, Peak (of the kinds of
	// memory, each at its own peak) the most there ever was, Limit the budget.
	Bytes, Peak, Limit int64
}

// Stats returns the present state.
func (s *Server) Stats() Stats {
	used, peak, limit := s.mem.usage()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Conns: s.serving, Handshakes: len(s.conns) - s.serving,
		Bytes: used, Peak: peak, Limit: limit,
	}
}
