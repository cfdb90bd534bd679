package storetest

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Gate holds chosen writes of the model checker inside a backend, so that a structural
// operation begins while they are under way. A machine that has one lets the writes of
// its disk pass through it; see Gated. The zero value is open.
type Gate struct {
	mu   sync.Mutex
	hold *hold // nil while open
}

// hold is one closing of a gate, for the writes that have the marks.
type hold struct {
	late    bool // hold them when they are done rather than before
	marks   [][]byte
	arrived chan struct{} // closed when all are here
	open    chan struct{} // closed to let them go
}

// Gated is a machine whose disk has a gate. Without one the model checker holds calls
// where they enter the backend: they were made and are not answered, but the backend
// has not seen them. With one they are in the midst of it, with its locks taken.
type Gated interface {
	// Gate returns the gate through which the writes of every store that Open returned
	// pass. A crash must let writes end that are let go only after it has begun.
	Gate() *Gate
}

// Pass runs write, which writes p to a disk. If it is one to hold, it waits before or
// after it until the gate opens.
func (g *Gate) Pass(p []byte, write func() (int, error)) (int, error) {
	h := g.take(p)
	if h == nil {
		return write()
	}
	if !h.late {
		<-h.open
		return write()
	}
	n, err := write()
	<-h.open
	return n, err
}

// take tells whether p is to be held, and counts it as having arrived.
func (g *Gate) take(p []byte) *hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.hold
	if h == nil {
		return nil
	}
	i := slices.IndexFunc(h.marks, func(mark []byte) bool { return bytes.Contains(p, mark) })
	if i < 0 {
		return nil
	}
	h.marks = slices.Delete(h.marks, i, i+1)
	if len(h.marks) == 0 {
		close(h.arrived)
	}
	return h
}

// shut holds the next writes that have the given bytes in them.
func (g *Gate) shut(late bool, marks [][]byte) (arrived <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold = &hold{late: late, marks: marks, arrived: make(chan struct{}), open: make(chan struct{})}
	return g.hold.arrived
}

// release lets go what is held.
func (g *Gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hold != nil {
		close(g.hold.open)
		g.hold = nil
	}
}

// noticing is a context that tells when it is first looked at: the call that was given
// it has begun then, as the callee looks and not the caller.
type noticing struct {
	context.Context
	looked func()
}

func (c noticing) Done() <-chan struct{} { c.looked(); return c.Context.Done() }
func (c noticing) Err() error            { c.looked(); return c.Context.Err() }
func (c noticing) Value(key any) any     { c.looked(); return c.Context.Value(key) }
