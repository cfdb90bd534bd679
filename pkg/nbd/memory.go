package nbd

import (
	"math/bits"
	"sync"
	"time"
)

const (
	// inlineMax is the largest payload that the goroutine which reads a connection
	// handles itself, in bytes.
	inlineMax = 64 << 10
	// turnIn and turnOut are the two halves of a turn's memory.
	turnIn   = inlineMax + 4096
	turnOut  = 2*inlineMax + 8192
	turnCost = turnIn + turnOut
	// headroom lies before the data of a buffer. The header of a reply is put at
	// its end, so that header and data are sent at once and data is page-aligned.
	headroom = 4096
	// minBuffer is the smallest data part, in bytes.
	minBuffer = 4096
	// mediumMax is the largest data part of a medium buffer, in bytes. It is more
	// than the largest request that a kernel sends unless it is told to.
	mediumMax = 4 << 20
	// classes counts the sizes of buffers: minBuffer << 0 .. classes-1.
	classes = 14
	// minBudget lets one maximal request be served: that is 7/16 of it.
	minBudget = (MaxPayload + headroom + 6) / 7 * 16
)

// kind says from which part of the budget memory comes. Each kind has a part of
// its own, so that a request waits for others of its kind only.
type kind int

const (
	turns   kind = iota // what drivers work with
	smalls              // buffers for up to inlineMax bytes
	mediums             // up to mediumMax
	larges              // up to MaxPayload
	kinds
)

// memory hands out the buffers of a server within its budget. Whoever holds a turn
// may wait for a buffer, but never the other way round, and nobody who holds a
// buffer waits for another: so no wait is for ever.
type memory struct {
	parts [kinds]budget
	// tick is how often somebody who waits calls relieve, with the kind it waits
	// for and, if it waits for bytes of its own peer, that peer.
	tick    time.Duration
	relieve func(k kind, of *peer)

	turnPool sync.Pool
	pools    [classes]sync.Pool
}

func newMemory(limit int64, tick time.Duration, relieve func(k kind, of *peer)) *memory {
	limit = max(limit, minBudget)
	m := &memory{tick: max(tick, time.Millisecond), relieve: relieve}
	m.parts[turns].limit = limit / 4
	m.parts[smalls].limit = limit / 8
	m.parts[mediums].limit = limit / 16 * 3
	m.parts[larges].limit = limit - limit/4 - limit/8 - limit/16*3
	for k := range m.parts {
		// Nobody stands in the way of all the others.
		m.parts[k].most = m.parts[k].limit * 2 / 3
	}
	return m
}

// share is what one connection may hold of a kind of buffers, in bytes.
func (m *memory) share(k kind) int64 {
	one := costOf(MaxPayload)
	switch k {
	case smalls:
		one = costOf(inlineMax)
	case mediums:
		one = costOf(mediumMax)
	}
	return max(m.parts[k].limit/4, one)
}

// smallShare is share for a connection whose requests wait by intention.
func (m *memory) smallShare(k kind) int64 { return m.parts[k].limit / 32 }

// usage sums up the kinds; each has its peak at its own time.
func (m *memory) usage() (used, peak, limit int64) {
	for k := range m.parts {
		u, p := m.parts[k].usage()
		used, peak, limit = used+u, peak+p, limit+m.parts[k].limit
	}
	return used, peak, limit
}

// take waits for n bytes; false when cancel closes first.
func (m *memory) take(k kind, of *peer, n int64, cancel <-chan struct{}) bool {
	return m.parts[k].take(&of.held[k], n, cancel, m.tick, func(own bool) {
		if own {
			m.relieve(k, of)
		} else {
			m.relieve(k, nil)
		}
	})
}

// turn is the memory with which one goroutine reads requests and collects
// replies. in[r:w] has been received and not yet taken; out has not been sent.
type turn struct {
	in   []byte
	out  []byte
	r, w int
}

// turn waits for a turn; nil when cancel closes first.
func (m *memory) turn(of *peer, cancel <-chan struct{}) *turn {
	if !m.parts[turns].try(&of.held[turns], turnCost) && !m.take(turns, of, turnCost, cancel) {
		return nil
	}
	return m.newTurn()
}

// tryTurn is turn without waiting.
func (m *memory) tryTurn(of *peer) *turn {
	if !m.parts[turns].try(&of.held[turns], turnCost) {
		return nil
	}
	return m.newTurn()
}

func (m *memory) newTurn() *turn {
	if t, ok := m.turnPool.Get().(*turn); ok {
		return t
	}
	mem := make([]byte, turnCost)
	return &turn{in: mem[:turnIn:turnIn], out: mem[turnIn:turnIn]}
}

func (m *memory) freeTurn(of *peer, t *turn) {
	t.r, t.w, t.out = 0, 0, t.out[:0]
	m.turnPool.Put(t)
	m.parts[turns].give(&of.held[turns], turnCost)
}

// buffer holds the data of one request outside of a turn.
type buffer struct {
	mem   []byte
	class int
	kind  kind
}

// classOf is the smallest class whose data part holds n bytes.
func classOf(n int) int {
	if n <= minBuffer {
		return 0
	}
	return bits.Len(uint(n-1) / minBuffer)
}

// costOf is what a buffer for n bytes of data takes from the budget.
func costOf(n int) int64 { return int64(minBuffer)<<classOf(n) + headroom }

// kindOf is the kind of a buffer for n bytes of data.
func kindOf(n int) kind {
	switch {
	case n <= inlineMax:
		return smalls
	case n <= mediumMax:
		return mediums
	}
	return larges
}

// buffer waits for a buffer of n <= MaxPayload bytes; nil when cancel closes first.
func (m *memory) buffer(of *peer, n int, cancel <-chan struct{}) *buffer {
	if !m.take(kindOf(n), of, costOf(n), cancel) {
		return nil
	}
	return m.newBuffer(n)
}

// tryBuffer is buffer without waiting.
func (m *memory) tryBuffer(of *peer, n int) *buffer {
	k := kindOf(n)
	if !m.parts[k].try(&of.held[k], costOf(n)) {
		return nil
	}
	return m.newBuffer(n)
}

func (m *memory) newBuffer(n int) *buffer {
	class := classOf(n)
	if b, ok := m.pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{mem: make([]byte, costOf(n)), class: class, kind: kindOf(n)}
}

func (m *memory) freeBuffer(of *peer, b *buffer) {
	k, cost := b.kind, int64(len(b.mem))
	m.pools[b.class].Put(b)
	m.parts[k].give(&of.held[k], cost)
}

// data is where n bytes of data lie.
func (b *buffer) data(n int) []byte { return b.mem[headroom : headroom+n : headroom+n] }

// reply is an empty slice at whose end data(…) begins once header bytes have been
// appended.
func (b *buffer) reply(header int) []byte {
	return b.mem[headroom-header : headroom-header]
}
