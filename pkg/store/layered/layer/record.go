package layer

import (
	"encoding/binary"
	"hash/crc32"
)

// recordSize is the length of a journal record, in bytes.
const recordSize = 32

// recordOp is what a journal record says.
type recordOp uint8

const (
	opSet    recordOp = 1 // blocks [block, block+count) got state
	opCommit recordOp = 2 // all records up to seq block are on stable storage, data included
)

// record is one journal record, decoded. See the byte table in doc.go.
type record struct {
	op    recordOp
	state State
	salt  uint16
	gen   uint32
	count uint32
	seq   uint64
	block uint64
}

// castagnoli is CRC-32C; MakeTable returns one shared, read-only table.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// chainSeed is what the first record of a generation is chained to. It differs
// by layer and generation, so that neither another layer's records nor an
// earlier lap's can continue a chain.
func chainSeed(id, gen uint64) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], id)
	binary.LittleEndian.PutUint64(b[8:], gen)
	return crc32.Checksum(b[:], castagnoli())
}

// encode writes the record into b and returns its checksum, which chains the next.
func (r record) encode(b []byte, prev uint32) uint32 {
	b[4], b[5] = byte(r.op), byte(r.state)
	binary.LittleEndian.PutUint16(b[6:], r.salt)
	binary.LittleEndian.PutUint32(b[8:], r.gen)
	binary.LittleEndian.PutUint32(b[12:], r.count)
	binary.LittleEndian.PutUint64(b[16:], r.seq)
	binary.LittleEndian.PutUint64(b[24:], r.block)
	sum := crc32.Update(prev, castagnoli(), b[4:recordSize])
	binary.LittleEndian.PutUint32(b, sum)
	return sum
}

// decodeRecord reads a record that follows one with checksum prev. ok is false
// unless the checksum matches and every field is one that this version writes.
func decodeRecord(b []byte, prev uint32) (r record, sum uint32, ok bool) {
	sum = binary.LittleEndian.Uint32(b)
	r = record{
		op:    recordOp(b[4]),
		state: State(b[5]),
		salt:  binary.LittleEndian.Uint16(b[6:]),
		gen:   binary.LittleEndian.Uint32(b[8:]),
		count: binary.LittleEndian.Uint32(b[12:]),
		seq:   binary.LittleEndian.Uint64(b[16:]),
		block: binary.LittleEndian.Uint64(b[24:]),
	}
	if !r.plausible() || crc32.Update(prev, castagnoli(), b[4:recordSize]) != sum {
		return record{}, 0, false
	}
	return r, sum, true
}

func (r record) plausible() bool {
	switch r.op {
	case opSet:
		return r.state <= Zero && r.count > 0 && r.count <= pageBlocks &&
			r.block < maxBlocks && r.block%pageBlocks+uint64(r.count) <= pageBlocks
	case opCommit:
		return r.state == 0 && r.count == 0 && r.block < r.seq
	}
	return false
}
