package layer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	pageBits   = 4096         // bytes of states in a page
	pageBlocks = pageBits * 4 // blocks a page describes: 64 MiB
	pageHeader = 512
	pageSlot   = pageHeader + pageBits
	pageMagic  = 0x67707473 // "stpg"
	pageFields = 52

	chunksPerPage = pageBlocks / ChunkBlocks
	maxBlocks     = uint64(store.MaxSize / BlockSize)

	pageSectors = 4096    // alignment of the journal halves
	minHalf     = 4096    // smallest journal half, for tests
	maxHalf     = 1 << 28 // largest
	defaultHalf = 4 << 20
)

// page is one map page in memory. Who may change it: see Layer.
type page struct {
	no         int64
	slot       int8 // slot on disk that holds the page as of the last checkpoint, -1 none
	data, zero int32
	bits       [pageBits]byte
}

// pageOffset is where the two slots of page no begin in the map file.
func pageOffset(half, no int64) int64 { return 2*headerSize + 2*half + no*2*pageSlot }

// set changes a range and returns by how much the counts changed.
func (p *page) set(i, n int, s State) (data, zero int32) {
	d, z := count(p.bits[:], i, n)
	setRange(p.bits[:], i, n, s)
	data, zero = -int32(d), -int32(z)
	switch s {
	case Data:
		data += int32(n)
	case Zero:
		zero += int32(n)
	}
	p.data += data
	p.zero += zero
	return data, zero
}

func (p *page) clone() *page {
	q := *p
	return &q
}

// encode writes the page with the given stamp into b, which has pageSlot bytes.
func (p *page) encode(b []byte, id, stamp uint64) {
	clear(b[:pageHeader])
	le := binary.LittleEndian
	le.PutUint32(b, pageMagic)
	le.PutUint64(b[8:], id)
	le.PutUint64(b[16:], uint64(p.no))
	le.PutUint64(b[24:], stamp)
	le.PutUint32(b[32:], uint32(p.data))
	le.PutUint32(b[36:], uint32(p.zero))
	copy(b[pageHeader:], p.bits[:])
	le.PutUint32(b[40:], crc32.Checksum(b[pageHeader:pageSlot], castagnoli()))
	le.PutUint32(b[4:], crc32.Checksum(b[8:pageHeader], castagnoli()))
}

// slotView is what can be said of one page slot.
type slotView struct {
	written    bool // its header sector was written
	whole      bool // the payload matches the header
	stamp      uint64
	data, zero int32
}

// viewSlot judges one slot. The header sector has its own checksum: a sector is
// written wholly or not at all, so a header that does not match is damage and
// not a torn write.
func viewSlot(b []byte, id uint64, no int64) (slotView, error) {
	if allZero(b[:pageHeader]) {
		return slotView{}, nil
	}
	le := binary.LittleEndian
	if le.Uint32(b) != pageMagic || crc32.Checksum(b[8:pageHeader], castagnoli()) != le.Uint32(b[4:]) {
		return slotView{}, fmt.Errorf("slot header does not match its checksum: %w", store.ErrCorrupt)
	}
	if le.Uint64(b[8:]) != id || le.Uint64(b[16:]) != uint64(no) {
		return slotView{}, fmt.Errorf("slot holds page %d of layer %016x: %w", le.Uint64(b[16:]), le.Uint64(b[8:]), store.ErrCorrupt)
	}
	return slotView{
		written: true,
		whole:   crc32.Checksum(b[pageHeader:pageSlot], castagnoli()) == le.Uint32(b[40:]),
		stamp:   le.Uint64(b[24:]),
		data:    int32(le.Uint32(b[32:])),
		zero:    int32(le.Uint32(b[36:])),
	}, nil
}

// decodePage picks from the two slots in raw the page as of the checkpoint ckpt.
// A slot with a later stamp belongs to a checkpoint that was not completed. A
// torn slot is harmless when the other one is newer; else it is damage.
func decodePage(raw []byte, id uint64, no int64, ckpt uint64) (*page, error) {
	p := &page{no: no, slot: -1}
	var best slotView
	var torn uint64
	for s := range 2 {
		v, err := viewSlot(raw[s*pageSlot:(s+1)*pageSlot], id, no)
		switch {
		case err != nil:
			return nil, fmt.Errorf("map page %d: %w", no, err)
		case !v.written || v.stamp > ckpt:
		case !v.whole:
			torn = max(torn, v.stamp)
		case !best.written || v.stamp > best.stamp:
			best, p.slot = v, int8(s)
		}
	}
	if torn > 0 && torn >= best.stamp {
		return nil, fmt.Errorf("map page %d: contents do not match their checksum: %w", no, store.ErrCorrupt)
	}
	if p.slot >= 0 {
		at := int(p.slot)*pageSlot + pageHeader
		copy(p.bits[:], raw[at:at+pageBits])
		p.data, p.zero = best.data, best.zero
	}
	return p, nil
}
