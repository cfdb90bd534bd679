package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
)

// Machine is a place where a backend keeps one store through closes and crashes.
type Machine interface {
	// Open opens the store, making it the first time. The store must also be a
	// CloseCounter; CountCloses makes one of any.
	Open() (store.Full, error)
	// Crash ends the process that has the store open, without Close and without
	// any sync. Calls in flight may end in any way, but once Crash has returned
	// nothing of the old store takes effect and every call on it fails.
	Crash() error
}

// CloseCounter is a store that knows how often it was closed. The harness uses it to
// prove that a simulated crash did not close anything in an orderly way.
type CloseCounter interface {
	Closes() int64
}

// Counted is a store that counts calls of Close.
type Counted struct {
	store.Full
	closes atomic.Int64
}

// CountCloses makes a store a CloseCounter. A Machine must use the result wherever it
// closes, in Crash too.
func CountCloses(s store.Full) *Counted { return &Counted{Full: s} }

// Close closes the store and counts the call.
func (c *Counted) Close() error {
	c.closes.Add(1)
	return c.Full.Close()
}

// Closes is how often Close was called.
func (c *Counted) Closes() int64 { return c.closes.Load() }

var errCrashClosed = errors.New("the simulated crash called Close: it proves nothing")

// crash crashes the machine and makes sure that the store was not closed by it.
func crash(m Machine, s store.Full) error {
	counter, ok := s.(CloseCounter)
	if !ok {
		return fmt.Errorf("%T does not count its Close calls: wrap it with CountCloses", s)
	}
	before := counter.Closes()
	if err := m.Crash(); err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	if counter.Closes() != before {
		return errCrashClosed
	}
	return nil
}
