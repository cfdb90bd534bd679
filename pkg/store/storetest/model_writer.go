package storetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
)

// mostOps bounds what a writer does while a structural operation is slow.
const mostOps = 100

// markLength is how many bytes of a write tell it from every other.
const markLength = 16

type opKind int

const (
	opWrite opKind = iota
	opZero
	opReserve // Zero with allocate
	opDiscard
	opFlush
	opRead
	opExtents
)

// op is one operation on a device.
type op struct {
	kind   opKind
	off    int64
	length int64
	data   []byte
}

func (o op) String() string {
	name := []string{"write", "zero", "zero+allocate", "discard", "flush", "read", "extents"}[o.kind]
	return fmt.Sprintf("%s %d bytes at %d (block %d+%d)", name, o.length, o.off, o.off/blk, o.off%blk)
}

func (o op) mutates() bool { return o.kind <= opDiscard }

// do carries the operation out. win is what the window at base must show.
func (o op) do(d store.Device, win []byte, base int64) error {
	switch o.kind {
	case opWrite:
		n, err := d.WriteAt(o.data, o.off)
		if err == nil && n != len(o.data) {
			return fmt.Errorf("wrote %d bytes: %w", n, errWrong)
		}
		return err
	case opZero, opReserve:
		return d.Zero(o.off, o.length, o.kind == opReserve)
	case opDiscard:
		return d.Discard(o.off, o.length)
	case opFlush:
		return d.Flush()
	case opExtents:
		return o.extents(d, win, base)
	}
	p := make([]byte, o.length)
	if _, err := d.ReadAt(p, o.off); err != nil {
		return err
	}
	if why := difference(p, win[o.off-base:o.off-base+o.length]); why != "" {
		return fmt.Errorf("%w: %s", errWrong, why)
	}
	return nil
}

// errWrong is a wrong answer, as opposed to an error of the backend.
var errWrong = errors.New("wrong answer")

func (o op) extents(d store.Device, win []byte, base int64) error {
	next, wrong := o.off, ""
	err := d.Extents(o.off, o.length, "", func(e store.Extent) bool {
		if e.Offset != next || e.Length <= 0 || e.Offset+e.Length > o.off+o.length {
			wrong = fmt.Sprintf("extent %+v does not continue at %d", e, next)
			return false
		}
		next += e.Length
		if (e.Zero || !e.Data) && !isZero(win[e.Offset-base:next-base]) {
			wrong = fmt.Sprintf("extent %+v is said to be zero or a hole", e)
			return false
		}
		return true
	})
	if err == nil && wrong == "" && next != o.off+o.length {
		wrong = fmt.Sprintf("extents end at %d", next)
	}
	if err == nil && wrong != "" {
		return fmt.Errorf("%w: %s", errWrong, wrong)
	}
	return err
}

func isZero(p []byte) bool {
	var zeros [store.Block]byte
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// apply changes the window at base as the operation must.
func (o op) apply(win []byte, base int64) {
	from, to := o.off-base, o.off-base+o.length
	switch o.kind {
	case opWrite:
		copy(win[from:to], o.data)
	case opZero, opReserve:
		clear(win[from:to])
	case opDiscard:
		from, to = (from+blk-1)/blk*blk, to/blk*blk // base is a multiple of blk
		if from < to {
			clear(win[from:to])
		}
	}
}

// writer works on one window of one image, which no other writer of the step touches.
type writer struct {
	t            *thing
	off, length  int64 // the window, whole blocks
	rng          *rand.Rand
	meets        []int // operations before each write that is held; nil if none is
	ahead, least int   // operations before the structural one has begun at most, and in all
	before       []byte
	ops          []op // begun ones
	begun, acked atomic.Int64
	low, high    int64 // answered before, and begun before the end of, the structural operation
	err          error

	mark  []byte        // bytes of the write to come that no other has
	ready chan struct{} // that write is next
	start chan struct{} // the gate is shut for it
	again chan bool     // it was not held together with the others': another has to be
	gone  chan struct{} // closed when the writer has ended
}

// stage is what the goroutines of a step share.
type stage struct {
	gate  *Gate
	door  bool          // the gate is at the backend's door
	begun chan struct{} // closed when the structural operation has begun
	over  chan struct{} // closed when writers and reader shall end
}

// run does operations until the structural one has ended, or one fails.
func (wr *writer) run(g *stage) {
	defer close(wr.gone)
	cur := bytes.Clone(wr.before)
	for meets := wr.meets; wr.err == nil; {
		n := len(wr.ops)
		if len(meets) > 0 && n >= meets[0] {
			if wr.meet(g, cur) {
				meets = meets[1:]
				continue
			}
			return
		}
		if n == wr.ahead {
			<-g.begun
		}
		if n >= mostOps {
			<-g.over
		}
		select {
		case <-g.over:
			if n >= wr.least {
				return
			}
		default:
		}
		o := wr.next()
		wr.do(o, cur, func() error { return o.do(wr.t.dev, cur, wr.off) })
		runtime.Gosched() // so that few processors are enough for writers to meet
	}
}

// do carries an operation out and keeps the books.
func (wr *writer) do(o op, cur []byte, call func() error) {
	wr.ops = append(wr.ops, o)
	wr.begun.Add(1)
	if err := call(); err != nil {
		wr.err = fmt.Errorf("%s: operation %d, %s: %w", wr.t.ref(), len(wr.ops), o, err)
		return
	}
	wr.acked.Add(1)
	o.apply(cur, wr.off)
}

// meet does writes until one of them was held together with those of others. It
// answers false if the writer must end.
func (wr *writer) meet(g *stage, cur []byte) bool {
	for again := true; again; {
		o := wr.next()
		for o.kind != opWrite || o.length < markLength {
			o = wr.next()
		}
		wr.mark = o.data[:markLength]
		if !wr.called(g) {
			return false
		}
		wr.do(o, cur, func() error {
			if !g.door {
				return o.do(wr.t.dev, cur, wr.off)
			}
			_, err := g.gate.Pass(o.data, func() (int, error) { return 0, o.do(wr.t.dev, cur, wr.off) })
			return err
		})
		if wr.err != nil {
			return false
		}
		again = <-wr.again
	}
	return true
}

// called says that the write to be held is next, and waits until the gate is shut for
// it. It answers false when the step is over.
func (wr *writer) called(g *stage) bool {
	select {
	case wr.ready <- struct{}{}:
	case <-g.over:
		return false
	}
	select {
	case <-wr.start:
		return true
	case <-g.over:
		return false
	}
}

// next makes up an operation inside the window.
func (wr *writer) next() op {
	kind := []opKind{
		opWrite, opWrite, opWrite, opWrite, opWrite, opWrite, opWrite, opZero, opReserve,
		opDiscard, opDiscard, opFlush, opRead, opRead, opExtents,
	}[wr.rng.IntN(15)]
	o := op{kind: kind}
	if wr.rng.IntN(3) == 0 { // any bytes
		o.length = 1 + wr.rng.Int64N(min(3*blk, wr.length))
		o.off = wr.off + wr.rng.Int64N(wr.length-o.length+1)
	} else {
		blocks := wr.length / blk
		count := 1 + wr.rng.Int64N(min(4, blocks))
		if wr.rng.IntN(10) == 0 {
			count = blocks
		}
		o.length = count * blk
		o.off = wr.off + wr.rng.Int64N(blocks-count+1)*blk
	}
	if kind == opWrite {
		o.data = stamped(wr.rng.Uint64(), o.length)
	}
	return o
}

// stamped returns bytes that no other call returns, so that every write can be told
// from every other.
func stamped(tag uint64, n int64) []byte {
	p := make([]byte, n+8)
	for i := int64(0); i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], (tag+uint64(i))|0x0101010101010101)
	}
	return p[:n]
}

// reader reads one view that must not change during the step, again and again.
type reader struct {
	t    *thing
	dev  store.Device
	want []byte
	rng  *rand.Rand
	n    int64
	err  error
}

func (r *reader) run(g *stage) {
	for {
		select {
		case <-g.over:
			return
		default:
		}
		if r.n >= mostOps {
			<-g.over
			return
		}
		length := 1 + r.rng.Int64N(min(8*blk, int64(len(r.want))))
		off := r.rng.Int64N(int64(len(r.want)) - length + 1)
		o := op{kind: opRead, off: off, length: length}
		if r.rng.IntN(4) == 0 {
			o.kind = opExtents
		}
		if err := o.do(r.dev, r.want, 0); err != nil {
			r.err = fmt.Errorf("reading %s: %s: %w", r.t.ref(), o, err)
			return
		}
		r.n++
		runtime.Gosched()
	}
}
