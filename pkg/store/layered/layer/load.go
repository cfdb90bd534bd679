package layer

import (
	"errors"
	"fmt"
	"io"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// LoadChunk copies the states of chunk c, the blocks [c*ChunkBlocks,
// (c+1)*ChunkBlocks), into dst. any tells whether one of them is not Absent. The
// copy is of one instant: a Mark is in it wholly or not at all.
// store.ErrCorrupt when the map page is damaged.
func (l *Layer) LoadChunk(c int64, dst *Chunk) (any bool, err error) {
	if c < 0 || uint64(c) >= maxBlocks/ChunkBlocks {
		return false, fault(l.id, "load map", fmt.Errorf("chunk %d: %w", c, store.ErrRange))
	}
	if l.Empty() {
		*dst = Chunk{}
		return false, nil
	}
	no := c / chunksPerPage
	if !l.copyChunk(c, no, nil, dst) {
		l.loadMu.Lock()
		defer l.loadMu.Unlock()
		if !l.copyChunk(c, no, nil, dst) {
			p, err := l.readPage(no)
			if err != nil {
				return false, err
			}
			l.env.Pages.put(l, p)
			l.copyChunk(c, no, p, dst)
		}
	}
	return !dst.Empty(), nil
}

// copyChunk copies a chunk from its page if that is in memory, or from spare.
func (l *Layer) copyChunk(c, no int64, spare *page, dst *Chunk) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.resident(no)
	if p == nil {
		p = spare
	}
	if p == nil {
		return false
	}
	at := c % chunksPerPage * int64(len(dst))
	copy(dst[:], p.bits[at:])
	return true
}

// resident finds a page in memory. jmu or mu is held.
func (l *Layer) resident(no int64) *page {
	if p := l.dirty[no]; p != nil {
		return p
	}
	if p := l.frozen[no]; p != nil {
		return p
	}
	return l.env.Pages.get(l, no)
}

// markMissing reads the page of the next piece and marks on from there. loadMu
// keeps everyone else from bringing in the same page, so what was read stays true
// until it is used.
func (l *Layer) markMissing(at *cursor) error {
	no, _, _, _ := at.piece()
	l.loadMu.Lock()
	defer l.loadMu.Unlock()
	l.mu.RLock()
	p := l.resident(no)
	l.mu.RUnlock()
	if p == nil {
		var err error
		if p, err = l.readPage(no); err != nil {
			return err
		}
	}
	_, err := l.markResident(at, p)
	return err
}

// readPage reads a page as of the last checkpoint. Its slots are not being
// written: while they are, the page is frozen and found in memory.
func (l *Layer) readPage(no int64) (*page, error) {
	if pageOffset(l.half, no) >= l.pagesEnd.Load() {
		return &page{no: no, slot: -1}, nil
	}
	var raw [2 * pageSlot]byte
	if err := readFull(l.mapf, raw[:], pageOffset(l.half, no)); err != nil {
		return nil, fault(l.id, fmt.Sprintf("read map page %d", no), err)
	}
	p, err := decodePage(raw[:], l.id, no, l.ckptSeq.Load())
	if err != nil {
		return nil, fault(l.id, "read map", err)
	}
	return p, nil
}

// readFull fills p from off; what lies beyond the end of the file reads as zero.
func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}
