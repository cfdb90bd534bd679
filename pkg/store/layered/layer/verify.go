package layer

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// verifyRead is how much of the data file a deep check reads at a time, in bytes.
const verifyRead = 1 << 20

// Verify checks the header, every map page, the counts, and the data file's size
// against the map; deep also reads all data. It runs beside writes, but holds up
// checkpoints while it reads the map. It returns what it found wrong.
func (l *Layer) Verify(deep bool) []error {
	v := verifier{l: l}
	v.metadata()
	if deep {
		for _, no := range v.present {
			v.readBlocks(no)
		}
	}
	return v.found
}

type verifier struct {
	l       *Layer
	present []int64 // pages that were ever written
	found   []error
	buf     []byte
}

func (v *verifier) report(format string, args ...any) {
	v.found = append(v.found, fault(v.l.id, "verify", fmt.Errorf(format, args...)))
}

func (v *verifier) metadata() {
	l := v.l
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	h := v.header()
	if _, err := l.checkSizes(&h); err != nil {
		v.report("%w", err)
	}
	v.findPages()
	var data, zero, last int64
	for _, no := range v.present {
		p, err := l.readPage(no)
		if err != nil {
			v.found = append(v.found, err)
			continue
		}
		v.page(p, "map")
		data, zero = data+int64(p.data), zero+int64(p.zero)
		last = max(last, lastData(p))
	}
	if data != h.data || zero != h.zero {
		v.report("map pages hold %d data and %d zero blocks, header says %d and %d: %w", data, zero, h.data, h.zero, store.ErrCorrupt)
	}
	v.memory(last)
}

// findPages lists the pages, passing over those that nothing was ever written to.
func (v *verifier) findPages() {
	for no := int64(0); ; no++ {
		next, ok, err := v.l.nextPage(no)
		if err != nil {
			v.found = append(v.found, err)
		}
		if err != nil || !ok {
			return
		}
		no = next
		v.present = append(v.present, no)
	}
}

// header compares the header on disk with the one in memory and answers that.
func (v *verifier) header() header {
	v.l.hdrMu.Lock()
	defer v.l.hdrMu.Unlock()
	h, _, err := readHeader(v.l.mapf, v.l.id)
	if err != nil {
		v.report("%w", err)
	} else if h.seq != v.l.hdr.seq {
		v.report("header on disk has sequence %d, want %d: %w", h.seq, v.l.hdr.seq, store.ErrCorrupt)
	}
	return v.l.hdr
}

// memory checks the pages that differ from the disk, and the data file's size
// against the highest block in state Data.
func (v *verifier) memory(last int64) {
	l := v.l
	l.mu.RLock()
	for _, p := range l.dirty {
		v.page(p, "changed map")
		last = max(last, lastData(p))
	}
	l.mu.RUnlock()
	size, err := l.data.Size()
	if err != nil {
		v.report("size of data file: %w", err)
	} else if size < last*BlockSize {
		v.report("data file has %d bytes, map has data up to %d: %w", size, last*BlockSize, store.ErrCorrupt)
	}
}

func (v *verifier) page(p *page, what string) {
	data, zero := count(p.bits[:], 0, pageBlocks)
	if invalid(p.bits[:]) {
		v.report("%s page %d holds a state that does not exist: %w", what, p.no, store.ErrCorrupt)
	}
	if int32(data) != p.data || int32(zero) != p.zero {
		v.report("%s page %d holds %d data and %d zero blocks, its counts are %d and %d: %w", what, p.no, data, zero, p.data, p.zero, store.ErrCorrupt)
	}
}

// lastData is one more than the highest block in state Data, 0 if there is none.
func lastData(p *page) int64 {
	if p.data == 0 {
		return 0
	}
	for i := pageBlocks - 1; i >= 0; i-- {
		if get(p.bits[:], i) == Data {
			return p.no*pageBlocks + int64(i) + 1
		}
	}
	return 0
}

// readBlocks reads the data of a page's blocks, for the sake of I/O errors.
func (v *verifier) readBlocks(no int64) {
	var c Chunk
	for k := range int64(chunksPerPage) {
		chunk := no*chunksPerPage + k
		some, err := v.l.LoadChunk(chunk, &c)
		if err != nil {
			v.found = append(v.found, err)
			return
		}
		for i := 0; some && i < ChunkBlocks; {
			s, n := c.Run(i)
			n = min(n, verifyRead/BlockSize)
			off := (chunk*ChunkBlocks + int64(i)) * BlockSize
			if s == Data {
				if len(v.buf) < n*BlockSize {
					v.buf = make([]byte, n*BlockSize)
				}
				if err := v.l.ReadData(v.buf[:n*BlockSize], off); err != nil {
					v.found = append(v.found, err)
				}
			}
			i += n
		}
	}
}
