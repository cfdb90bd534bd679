package nbd

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxInFlight is how many requests of one connection are outside of the
	// reading goroutine at most. Linux has 128 tags per connection.
	maxInFlight = 160
	// standInTick is how long an inline call may last, at least once and at most
	// twice, before another goroutine reads on.
	standInTick = time.Millisecond
	// flushBytes and flushCount bound how long replies are collected while further
	// requests keep coming.
	flushBytes = 64 << 10
	flushCount = 64
	// slowRequests is how many requests go to workers after an inline call was
	// that slow: while a device is slow, each of them would need a stand-in.
	slowRequests = 64
)

// session is the transmission phase of one connection.
//
// One goroutine at a time is the driver: it reads requests, handles small ones
// and hands the others to workers. While the driver is inside an Export call the
// word `call` is odd. If the watch sees the same odd value twice, it takes the
// role away by making it even and a stand-in drives on; the former driver notices
// when its own change of the word fails, sends its reply and goes.
type session struct {
	conn       *Conn
	ex         Export
	limited    Limited // ex, or nil
	info       ExportInfo
	structured bool
	aligned    bool     // the client was told the block size
	contexts   []string // the id of a context is its index + 1
	mem        *memory

	in  *inlet
	out *outlet

	call  atomic.Uint64
	armed atomic.Bool // the watch runs
	watch *time.Timer
	seen  uint64 // by the watch alone

	held  [kinds]atomic.Int64 // bytes of the budget
	freed chan struct{}       // some were given back
	slots chan struct{}       // one per request outside the driver

	mu   sync.Mutex
	live int  // goroutines that may still call ex
	over bool // live has reached 0
	end  error
	idle chan struct{} // closed then

	// The fields below belong to the driver.
	t    *turn
	word uint64
	slow int
	// unsent counts the requests since the last flush.
	unsent int
	// eager: look for the next request before sending replies, which makes them
	// fewer and larger. It costs latency where requests come one by one.
	eager bool
	mark  int // length of t.out when the inline call began
	park  func()
}

func newSession(c *Conn, ex Export, h *handshake) *session {
	cfg := &c.srv.cfg
	s := &session{
		conn: c, ex: ex, info: ex.Info().normal(),
		structured: h.structured, contexts: h.contexts,
		mem:   c.srv.mem,
		out:   newOutlet(c, cfg.StallTimeout),
		freed: make(chan struct{}, 1),
		slots: make(chan struct{}, maxInFlight),
		idle:  make(chan struct{}),
		live:  1,
	}
	s.in = newInlet(c, cfg.StallTimeout, s.flush)
	s.limited, _ = ex.(Limited)
	s.park = s.parked
	s.watch = time.AfterFunc(time.Hour, s.look)
	s.watch.Stop()
	return s
}

// run serves the connection until nothing of it can reach the export any more.
// The error says why it ended; nil is a client that said or hung up properly.
func (s *session) run() error {
	s.drive()
	<-s.idle
	if err := s.out.failure(); err != nil {
		return err // it closed the connection, which ended the reading
	}
	if errors.Is(s.end, io.EOF) || errors.Is(s.end, errStopped) {
		return nil
	}
	return s.end
}

// drive is the driver's loop.
func (s *session) drive() {
	defer s.leave()
	for {
		req, err := s.next()
		if err != nil {
			s.finish(err)
			return
		}
		if req.cmd == cmdDisc {
			s.finish(nil)
			return
		}
		driving, err := s.handle(req)
		if !driving {
			return
		}
		if err != nil {
			s.finish(err)
			return
		}
	}
}

// finish ends reading: replies that are ready are sent and the turn given back.
func (s *session) finish(err error) {
	s.flush()
	s.parked()
	s.mu.Lock()
	s.end = err
	s.mu.Unlock()
}

// parked gives the turn back while there is nothing to do. The driver may hold
// none already.
func (s *session) parked() {
	if s.t != nil {
		s.freeTurn(s.t)
		s.t = nil
	}
}

// freeTurn gives back a turn that this session holds.
func (s *session) freeTurn(t *turn) {
	s.held[turns].Add(-turnCost)
	s.mem.freeTurn(s.conn.peer, t)
}

// flush sends the replies collected so far.
func (s *session) flush() {
	if s.t != nil && len(s.t.out) > 0 {
		s.out.send(s.t.out)
		s.t.out = s.t.out[:0]
	}
	if s.unsent > 0 {
		s.eager = s.unsent > 1
		s.unsent = 0
	}
}

// next returns the next request. If that is a small write, its payload has been
// received too.
func (s *session) next() (request, error) {
	for {
		if s.conn.draining.Load() {
			return request{}, errStopped
		}
		missing := requestSize
		if s.t != nil && s.t.w-s.t.r >= requestSize {
			req, ok := parseRequest(s.t.in[s.t.r:])
			if !ok {
				return request{}, errors.New("a request does not begin with the magic number")
			}
			missing += req.inlinePayload()
			if s.t.w-s.t.r >= missing {
				s.t.r += requestSize
				s.in.settle()
				if s.unsent == flushCount {
					s.flush()
				}
				s.unsent++
				return req, nil
			}
		}
		if err := s.receive(missing); err != nil {
			return request{}, err
		}
	}
}

// inlinePayload is how many bytes of payload are received into the turn.
func (r request) inlinePayload() int {
	if r.cmd == cmdWrite && r.length <= inlineMax {
		return int(r.length)
	}
	return 0
}

// receive reads more of a message that takes up size bytes of the turn.
func (s *session) receive(size int) error {
	if s.t == nil {
		if s.t = s.mem.turn(s.conn.peer, s.conn.cut); s.t == nil {
			return errCut
		}
		s.held[turns].Add(turnCost)
	}
	if !s.eager || len(s.t.out) > flushBytes {
		s.flush()
	}
	t := s.t
	idle := s.park
	switch {
	case t.r == t.w:
		t.r, t.w = 0, 0
	case t.r+size > len(t.in):
		t.w = copy(t.in, t.in[t.r:t.w])
		t.r = 0
		fallthrough
	default:
		idle = nil
	}
	n, err := s.in.read(t.in[t.w:], idle)
	if s.t != nil {
		s.t.w += n
	}
	if n > 0 && !s.in.parked {
		s.eager = true // it came while the last one was handled
	}
	if errors.Is(err, io.EOF) && idle == nil {
		return fmt.Errorf("in the middle of a message: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// payload receives the rest of a payload into p, part of which may be in the turn.
func (s *session) payload(p []byte) error {
	n := copy(p, s.t.in[s.t.r:s.t.w])
	s.t.r += n
	if n == len(p) {
		return nil
	}
	s.flush()
	defer s.in.settle()
	for n < len(p) {
		m, err := s.in.read(p[n:], nil)
		if err != nil {
			return fmt.Errorf("receive a payload: %w", err)
		}
		n += m
	}
	return nil
}

// drain drops n bytes of payload.
func (s *session) drain(n int) error {
	have := min(n, s.t.w-s.t.r)
	s.t.r += have
	n -= have
	if n > 0 {
		s.flush()
		s.t.r, s.t.w = 0, 0
		s.in.due = time.Now().Add(s.in.stall + transferTime(n))
		defer s.in.settle()
	}
	for n > 0 {
		m, err := s.in.read(s.t.in[:min(n, len(s.t.in))], nil)
		if err != nil {
			return fmt.Errorf("drop a payload: %w", err)
		}
		n -= m
	}
	return nil
}

// enter counts a goroutine that is about to call the export.
func (s *session) enter() {
	s.mu.Lock()
	s.live++
	s.mu.Unlock()
}

// leave uncounts it. The last one ends the session.
func (s *session) leave() {
	s.mu.Lock()
	s.live--
	last := s.live == 0
	if last {
		s.over = true
		s.watch.Stop()
	}
	s.mu.Unlock()
	if last {
		close(s.idle)
	}
}
