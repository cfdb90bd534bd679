package layer

import (
	"encoding/binary"
	"math/bits"
)

const (
	// BlockSize is the unit of tracking, in bytes.
	BlockSize = 4096
	// ChunkBlocks is how many blocks one Chunk describes: 4 MiB.
	ChunkBlocks = 1024
)

// State is what a layer knows of one block, in two bits.
type State uint8

const (
	// Absent: the layer has nothing; ask the layer below.
	Absent State = 0
	// Data: the block's bytes are in the data file.
	Data State = 1
	// Zero: the block reads as zero, whatever lies below and in the data file.
	Zero State = 2
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Absent:
		return "absent"
	case Data:
		return "data"
	case Zero:
		return "zero"
	}
	return "invalid"
}

// Run is a run of blocks that get the same state.
type Run struct {
	// Block is the first block's number, Count how many follow, both in blocks.
	Block, Count int64
	State        State
}

// Chunk is the states of ChunkBlocks consecutive blocks, four to a byte, the
// first in the low bits. It is a value and has no lock.
type Chunk [ChunkBlocks / 4]byte

// Get is the state of block i of the chunk, 0 <= i < ChunkBlocks.
func (c *Chunk) Get(i int) State { return get(c[:], i) }

// Set changes the state of block i of the chunk.
func (c *Chunk) Set(i int, s State) { setRange(c[:], i, 1, s) }

// SetRange changes the states of n blocks from block i.
func (c *Chunk) SetRange(i, n int, s State) { setRange(c[:], i, n, s) }

// Empty tells whether every block is Absent.
func (c *Chunk) Empty() bool { return *c == Chunk{} }

// Run is the length of the run of equal states that starts at block i, in blocks,
// at most to the chunk's end.
func (c *Chunk) Run(i int) (State, int) {
	s, j := get(c[:], i), i+1
	for j < ChunkBlocks {
		if j%4 == 0 && c[j/4] == fill(s) {
			j += 4
			continue
		}
		if get(c[:], j) != s {
			break
		}
		j++
	}
	return s, j - i
}

func get(b []byte, i int) State { return State(b[i/4] >> (i % 4 * 2) & 3) }

// fill is the byte that holds four times s.
func fill(s State) byte { return byte(s) * 0x55 }

// edgeMask covers the two-bit fields from..to-1 of one byte.
func edgeMask(from, to int) byte { return byte(1<<(to*2)-1) &^ byte(1<<(from*2)-1) }

// span splits the fields i..i+n-1 into a partial first byte, whole bytes and a
// partial last byte, and calls fn with each part's bytes and mask.
func span(b []byte, i, n int, fn func(part []byte, mask byte)) {
	first, last := i/4, (i+n)/4
	if first == last {
		fn(b[first:first+1], edgeMask(i%4, (i+n)%4))
		return
	}
	if i%4 != 0 {
		fn(b[first:first+1], edgeMask(i%4, 4))
		first++
	}
	if first < last {
		fn(b[first:last], 0xff)
	}
	if (i+n)%4 != 0 {
		fn(b[last:last+1], edgeMask(0, (i+n)%4))
	}
}

func setRange(b []byte, i, n int, s State) {
	if n <= 0 {
		return
	}
	span(b, i, n, func(part []byte, mask byte) {
		v := fill(s) & mask
		for j := range part {
			part[j] = part[j]&^mask | v
		}
	})
}

// uniform tells whether the n blocks from i all have state s.
func uniform(b []byte, i, n int, s State) bool {
	same := true
	if n > 0 {
		span(b, i, n, func(part []byte, mask byte) {
			for _, x := range part {
				if x&mask != fill(s)&mask {
					same = false
					return
				}
			}
		})
	}
	return same
}

// count tells how many of the n blocks from i are Data and how many Zero.
func count(b []byte, i, n int) (data, zero int) {
	if n <= 0 {
		return 0, 0
	}
	span(b, i, n, func(part []byte, mask byte) {
		for len(part) >= 8 && mask == 0xff {
			x := binary.LittleEndian.Uint64(part)
			data += bits.OnesCount64(x & 0x5555555555555555)
			zero += bits.OnesCount64(x & 0xaaaaaaaaaaaaaaaa)
			part = part[8:]
		}
		for _, x := range part {
			x &= mask
			data += bits.OnesCount8(x & 0x55)
			zero += bits.OnesCount8(x & 0xaa)
		}
	})
	return data, zero
}

// invalid tells whether any field has the value 3, which no state has.
func invalid(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		if x&(x>>1)&0x5555555555555555 != 0 {
			return true
		}
		b = b[8:]
	}
	for _, x := range b {
		if x&(x>>1)&0x55 != 0 {
			return true
		}
	}
	return false
}
