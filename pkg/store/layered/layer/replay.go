package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// scanBuffer is how much of the journal is read at a time, in bytes.
const scanBuffer = 64 << 10

// scanFirst is how much is read at first: most journals that are looked at are empty.
const scanFirst = 4 << 10

// tail is where the valid records of a generation end.
type tail struct {
	gen, first uint64 // the generation and the seq of its first record
	pos        int64  // bytes of valid records in its half
	seq        uint64 // last valid record, first-1 if none
	chain      uint32
	salt       uint16
	lastMark   uint64 // last record that is no COMMIT, in all generations so far
	lastCommit uint64 // what the last COMMIT names, in all generations so far
}

func recordGen(b []byte) uint32 { return binary.LittleEndian.Uint32(b[8:]) }

// scan reads the records of one generation up to the first bad one and calls fn
// for each if it is not nil. before is the tail of the generation before.
func (l *Layer) scan(gen, first uint64, before tail, fn func(record) error) (tail, error) {
	t := tail{gen: gen, first: first, seq: first - 1, chain: chainSeed(l.id, gen), salt: before.salt,
		lastMark: before.lastMark, lastCommit: before.lastCommit}
	buf := make([]byte, min(scanFirst, l.half))
	for t.pos < l.half {
		if t.pos > 0 && len(buf) < scanBuffer {
			buf = make([]byte, scanBuffer)
		}
		part := buf[:min(int64(len(buf)), l.half-t.pos)]
		if err := readFull(l.mapf, part, halfOffset(l.half, gen)+t.pos); err != nil {
			return t, fmt.Errorf("map file: read journal: %w", err)
		}
		for ; len(part) > 0; part = part[recordSize:] {
			r, sum, ok := decodeRecord(part, t.chain)
			if !ok || r.gen != uint32(gen) || r.seq != t.seq+1 {
				return t, nil
			}
			t.pos += recordSize
			t.seq, t.chain, t.salt = r.seq, sum, r.salt
			if r.op == opCommit {
				t.lastCommit = max(t.lastCommit, r.block)
			} else {
				t.lastMark = r.seq
			}
			if fn == nil {
				continue
			}
			if err := fn(r); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

// scanJournal finds the ends of the two generations that the header names. kept
// says that nothing written was lost; then records after a bad one are damage,
// and not the remains of a power failure.
func (l *Layer) scanJournal(kept bool) (old, cur tail, err error) {
	base := tail{lastMark: l.hdr.ckptSeq, lastCommit: l.hdr.ckptSeq}
	old, err = l.scan(l.hdr.gen, l.hdr.firstSeq, base, nil)
	if err != nil {
		return old, old, err
	}
	old.lastMark = max(old.lastMark, l.hdr.ckptSeq)
	cur, err = l.scan(l.hdr.gen+1, old.seq+1, old, nil)
	if err != nil {
		return old, cur, err
	}
	if cur.pos > 0 {
		if kept {
			err = l.checkRest(cur)
		}
		return old, cur, err
	}
	if kept {
		if err = l.checkRest(old); err == nil {
			err = l.checkRest(cur)
		}
	}
	return old, old, err
}

// checkRest looks for records of t's generation after the first bad one. They are
// appended in order, so when nothing was lost they prove that it was damaged.
func (l *Layer) checkRest(t tail) error {
	var buf []byte
	var prev uint32 // stored checksum of the record before, whether valid or not
	seq := t.seq    // of the record before
	for pos := t.pos; pos < l.half; {
		skip, err := l.hole(halfOffset(l.half, t.gen)+pos, l.half-pos)
		if err != nil {
			return err
		}
		if skip > 0 { // a record of zeroes is none
			pos, seq, prev = pos+skip, seq+uint64(skip/recordSize), 0
			continue
		}
		if buf == nil {
			buf = make([]byte, min(scanBuffer, l.half))
		}
		part := buf[:min(int64(len(buf)), l.half-pos)]
		if err := readFull(l.mapf, part, halfOffset(l.half, t.gen)+pos); err != nil {
			return fmt.Errorf("map file: read journal: %w", err)
		}
		for ; len(part) > 0; part = part[recordSize:] {
			seq++
			if pos == 0 {
				// Of the right generation, but it does not follow on what came before.
				if r, _, ok := decodeRecord(part, chainSeed(l.id, t.gen)); ok && r.gen == uint32(t.gen) {
					return fmt.Errorf("map file: journal ends at record %d, its next generation begins at %d: %w", t.seq, r.seq, store.ErrCorrupt)
				}
			}
			stored := binary.LittleEndian.Uint32(part)
			later := pos > t.pos && recordGen(part) == uint32(t.gen) &&
				binary.LittleEndian.Uint64(part[16:]) == seq &&
				binary.LittleEndian.Uint16(part[6:]) >= t.salt &&
				crc32.Update(prev, castagnoli(), part[4:recordSize]) == stored
			if later {
				return fmt.Errorf("map file: journal record %d is damaged, record %d after it is whole: %w", t.seq+1, seq, store.ErrCorrupt)
			}
			prev = stored
			pos += recordSize
		}
	}
	return nil
}

// hole tells how many bytes from off, up to most, were never written, in whole records.
func (l *Layer) hole(off, most int64) (int64, error) {
	next, err := vfs.NextData(l.mapf, off)
	if errors.Is(err, io.EOF) {
		return most, nil
	}
	if err != nil {
		return 0, fmt.Errorf("map file: look for journal: %w", err)
	}
	return min(next-off, most) / recordSize * recordSize, nil
}

// replay applies the records after the last checkpoint, up to limit, to pages in
// memory.
func (l *Layer) replay(old, cur tail, limit uint64, rec *Recovery) error {
	if cur.seq <= l.hdr.ckptSeq {
		return nil
	}
	fn := func(r record) error {
		switch {
		case r.op != opSet || r.seq <= l.hdr.ckptSeq:
			return nil
		case r.seq > limit:
			rec.Discarded++
			return nil
		}
		rec.Replayed++
		return l.redo(r)
	}
	if _, err := l.scan(old.gen, old.first, tail{}, fn); err != nil {
		return err
	}
	if cur.gen == old.gen {
		return nil
	}
	_, err := l.scan(cur.gen, cur.first, tail{}, fn)
	return err
}

func (l *Layer) redo(r record) error {
	no := int64(r.block / pageBlocks)
	p := l.dirty[no]
	if p == nil {
		var err error
		if p, err = l.readPage(no); err != nil {
			return err
		}
	}
	l.apply(pageSet{p, int(r.block % pageBlocks), int(r.count), r.state})
	return nil
}
