package nbd

import (
	"math/bits"
	"sync"
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
	minBuffer  = 4096
	bufferCost = minBuffer + headroom
	// classes counts the sizes of buffers: minBuffer << 0 .. classes-1.
	classes = 14
	// minBudget lets one turn and one maximal request be served.
	minBudget = 2 * (MaxPayload + headroom + turnCost)
)

// memory hands out the buffers of a server within its budget. Turns and buffers
// have half of the budget each: whoever holds a turn may wait for a buffer, but
// never the other way round, so the two cannot block each other for ever.
type memory struct {
	turns   budget
	buffers budget

	turnPool sync.Pool
	pools    [classes]sync.Pool
}

func newMemory(limit int64) *memory {
	limit = max(limit, minBudget)
	m := &memory{}
	m.turns.limit = limit / 2
	m.buffers.limit = limit - limit/2
	return m
}

// turn is the memory with which one goroutine reads requests and collects
// replies. in[r:w] has been received and not yet taken; out has not been sent.
type turn struct {
	in   []byte
	out  []byte
	r, w int
}

// turn waits for a turn; nil when cancel closes first.
func (m *memory) turn(cancel <-chan struct{}) *turn {
	if !m.turns.take(turnCost, cancel) {
		return nil
	}
	return m.newTurn()
}

// tryTurn is turn without waiting.
func (m *memory) tryTurn() *turn {
	if !m.turns.try(turnCost) {
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

func (m *memory) freeTurn(t *turn) {
	t.r, t.w, t.out = 0, 0, t.out[:0]
	m.turnPool.Put(t)
	m.turns.give(turnCost)
}

// buffer holds the data of one request outside of a turn.
type buffer struct {
	mem   []byte
	class int
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

// buffer waits for a buffer of n <= MaxPayload bytes; nil when cancel closes first.
func (m *memory) buffer(n int, cancel <-chan struct{}) *buffer {
	if !m.buffers.take(costOf(n), cancel) {
		return nil
	}
	return m.newBuffer(n)
}

// tryBuffer is buffer without waiting.
func (m *memory) tryBuffer(n int) *buffer {
	if !m.buffers.try(costOf(n)) {
		return nil
	}
	return m.newBuffer(n)
}

func (m *memory) newBuffer(n int) *buffer {
	class := classOf(n)
	if b, ok := m.pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{mem: make([]byte, costOf(n)), class: class}
}

func (m *memory) freeBuffer(b *buffer) {
	cost := int64(len(b.mem))
	m.pools[b.class].Put(b)
	m.buffers.give(cost)
}

// data is where n bytes of data lie.
func (b *buffer) data(n int) []byte { return b.mem[headroom : headroom+n : headroom+n] }

// reply is an empty slice at whose end data(…) begins once header bytes have been
// appended.
func (b *buffer) reply(header int) []byte {
	return b.mem[headroom-header : headroom-header]
}
