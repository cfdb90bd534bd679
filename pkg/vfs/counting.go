package vfs

import (
	"math/bits"
	"sync/atomic"
)

// Counting counts the operations that pass through it, failed ones included, and
// the bytes they ask for, by kind.
type Counting struct {
	*Faulty
	tally *[len(kindNames)]struct{ ops, bytes atomic.Int64 }
}

// NewCounting wraps fs; all counts are 0.
func NewCounting(fs FS) *Counting {
	tally := new([len(kindNames)]struct{ ops, bytes atomic.Int64 })
	count := func(op Op) error {
		at := &tally[bits.TrailingZeros32(uint32(op.Kind))]
		at.ops.Add(1)
		at.bytes.Add(op.Length)
		return nil
	}
	return &Counting{Faulty: NewFaulty(fs, count), tally: tally}
}

// Ops is the number of operations of the given kinds since the last Reset.
func (c *Counting) Ops(kinds Kind) int64 {
	var n int64
	for i := range c.tally {
		if kinds&(1<<i) != 0 {
			n += c.tally[i].ops.Load()
		}
	}
	return n
}

// Bytes is the length of the ranges that operations of the given kinds were asked
// for since the last Reset.
func (c *Counting) Bytes(kinds Kind) int64 {
	var n int64
	for i := range c.tally {
		if kinds&(1<<i) != 0 {
			n += c.tally[i].bytes.Load()
		}
	}
	return n
}

// Syncs is the number of Sync and SyncDir since the last Reset.
func (c *Counting) Syncs() int64 { return c.Ops(OpSync | OpSyncDir) }

// Reset sets all counts to 0.
func (c *Counting) Reset() {
	for i := range c.tally {
		c.tally[i].ops.Store(0)
		c.tally[i].bytes.Store(0)
	}
}

var _ FS = (*Counting)(nil)
