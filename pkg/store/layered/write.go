package layered

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store/layered/layer"
)

const blockSize = int64(layer.BlockSize)

// write writes p at off. An acknowledged write survives a crash of the process: its
// data is in the page cache and, if it allocated, its record in the journal.
func (im *image) write(p []byte, off int64) error {
	im.gate.RLock()
	defer im.gate.RUnlock()
	if err := im.view.inRange("write", off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	head, err := im.headLayer()
	if err != nil {
		return err
	}
	im.writes.Add(1)
	first, end := off/blockSize*blockSize, roundUp(off+int64(len(p)))
	guard := im.locks.Lock(first, end-first)
	defer guard.Unlock()
	for len(p) > 0 {
		part := min(int64(len(p)), (off/chunkBytes+1)*chunkBytes-off)
		if err := im.writeChunk(head, p[:part], off); err != nil {
			return im.failed("write", off, err)
		}
		p, off = p[part:], off+part
	}
	return nil
}

// writeChunk writes within one chunk. The caller holds the range.
func (im *image) writeChunk(head *layer.Layer, p []byte, off int64) error {
	first, last := off/blockSize, (off+int64(len(p))-1)/blockSize
	fresh, edges, err := im.ownership(off, int64(len(p)))
	if err != nil {
		return err
	}
	if fresh && edges {
		// A block that is new to the head is always written whole: what the write
		// leaves out comes from below.
		return im.writeMerged(head, p, off)
	}
	if fresh {
		head.Reserve(off, int64(len(p)), im.view.size.Load())
	}
	if err := head.WriteData(p, off); err != nil {
		return err
	}
	if !fresh {
		return nil
	}
	return im.mark(head, first, last-first+1, layer.Data)
}

// ownership tells whether any block of the range is not yet data in the head
// (fresh), and whether a block that is only partly covered is among those (edges).
func (im *image) ownership(off, n int64) (fresh, edges bool, err error) {
	v := im.view
	t := v.st.srcu.Enter()
	defer v.st.srcu.Exit(t)
	chunk := off / chunkBytes
	s := v.shardOf(chunk)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := v.lookup(s, chunk)
	if err != nil {
		return false, false, err
	}
	own := v.chain[0].index
	first, last := off/blockSize, (off+n-1)/blockSize
	base := chunk * layer.ChunkBlocks
	for b := first; b <= last; b++ {
		if e.at(int(b-base)) == own {
			continue
		}
		fresh = true
		if b == first && off%blockSize != 0 || b == last && (off+n)%blockSize != 0 {
			return true, true, nil
		}
	}
	return fresh, false, nil
}

// writeMerged completes the first and last block from what the view shows and
// writes whole blocks.
func (im *image) writeMerged(head *layer.Layer, p []byte, off int64) error {
	first, end := off/blockSize*blockSize, roundUp(off+int64(len(p)))
	buf := make([]byte, end-first)
	if first != off {
		if err := im.view.read(buf[:blockSize], first); err != nil {
			return err
		}
	}
	if tail := end - blockSize; off+int64(len(p)) != end && (tail != first || first == off) {
		if err := im.view.read(buf[tail-first:], tail); err != nil {
			return err
		}
	}
	copy(buf[off-first:], p)
	head.Reserve(first, end-first, im.view.size.Load())
	if err := head.WriteData(buf, first); err != nil {
		return err
	}
	return im.mark(head, first/blockSize, (end-first)/blockSize, layer.Data)
}

// mark records blocks of one chunk as belonging to the head. After it the write may
// be acknowledged.
func (im *image) mark(head *layer.Layer, block, n int64, s layer.State) error {
	if err := head.Mark(block, n, s); err != nil {
		return err
	}
	im.view.update(block/layer.ChunkBlocks, int(block%layer.ChunkBlocks), int(n), s == layer.Zero)
	return nil
}

// zero makes a range read as zero. Edges that cover blocks partly are written.
func (im *image) zero(off, n int64, allocate bool) error {
	if allocate {
		return im.eachPart(off, n, func(o, m int64) error { return im.write(zeros[:m], o) })
	}
	if err := im.view.inRange("zero", off, n); err != nil {
		return err
	}
	end := off + n
	if first := roundUp(off); first != off {
		edge := min(first, end)
		if err := im.write(zeros[:edge-off], off); err != nil {
			return err
		}
		off = edge
	}
	if last := end / blockSize * blockSize; last != end && off < end {
		if err := im.write(zeros[:end-last], last); err != nil {
			return err
		}
		end = last
	}
	return im.discard(off, end-off)
}

// zeros is what explicit zeroes are written from; it is never written to.
var zeros [1 << 20]byte //nolint:gochecknoglobals // read only

// eachPart cuts a long range into pieces, so that no lock is held for long.
func (im *image) eachPart(off, n int64, fn func(off, n int64) error) error {
	if err := im.view.inRange("zero", off, n); err != nil {
		return err
	}
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if err := fn(off, part); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// discard makes the whole blocks of a range read as zero and gives their space back.
func (im *image) discard(off, n int64) error {
	if err := im.view.inRange("discard", off, n); err != nil {
		return err
	}
	end := (off + n) / blockSize * blockSize
	for off = roundUp(off); off < end; {
		part := min(end, (off/chunkBytes+1)*chunkBytes) - off
		if err := im.discardChunk(off, part); err != nil {
			return im.failed("discard", off, err)
		}
		off += part
	}
	return nil
}

func (im *image) discardChunk(off, n int64) error {
	im.gate.RLock()
	defer im.gate.RUnlock()
	if err := im.view.inRange("discard", off, n); err != nil {
		return err // shrunk meanwhile
	}
	head, err := im.headLayer()
	if err != nil {
		return err
	}
	im.writes.Add(1)
	guard := im.locks.Lock(off, n)
	defer guard.Unlock()
	runs, err := im.dataRuns(off/blockSize, n/blockSize)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if err := im.mark(head, r.first, r.n, layer.Zero); err != nil {
			return err
		}
		if !r.own {
			continue
		}
		// The record comes first: a hole under a block that still counts as data
		// would be as good, but only the record makes the zeroes last.
		if err := head.Punch(r.first*blockSize, r.n*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// blockRun is a run of blocks that show data; own if it is the head's.
type blockRun struct {
	first, n int64
	own      bool
}

// dataRuns lists what shows data in a range of one chunk.
func (im *image) dataRuns(first, n int64) ([]blockRun, error) {
	v := im.view
	t := v.st.srcu.Enter()
	defer v.st.srcu.Exit(t)
	chunk := first / layer.ChunkBlocks
	s := v.shardOf(chunk)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := v.lookup(s, chunk)
	if err != nil {
		return nil, err
	}
	var runs []blockRun
	for b := first; b < first+n; b++ {
		at := e.at(int(b % layer.ChunkBlocks))
		if at == 0 || at&slotZero != 0 {
			continue
		}
		own := at == v.chain[0].index
		if k := len(runs); k > 0 && runs[k-1].first+runs[k-1].n == b && runs[k-1].own == own {
			runs[k-1].n++
		} else {
			runs = append(runs, blockRun{b, 1, own})
		}
	}
	return runs, nil
}

// flush makes every acknowledged write durable. Older heads were flushed when they
// were sealed.
func (im *image) flush() error {
	im.gate.RLock()
	if im.head == nil {
		im.gate.RUnlock()
		return nil
	}
	if _, err := im.headLayer(); err != nil {
		im.gate.RUnlock()
		return im.failed("flush", 0, err)
	}
	ref := im.st.layers.acquire(im.head.id)
	im.gate.RUnlock()
	defer im.st.layers.release(ref)
	head, err := ref.get()
	if err == nil {
		err = head.Flush()
	}
	if err != nil {
		return im.failed("flush", 0, err)
	}
	return nil
}

// failed names the image in an error and notes one that made it read-only.
func (im *image) failed(op string, off int64, err error) error {
	im.st.noticePoison(im, err)
	return fmt.Errorf("%s %s at %d: %w", op, im.view.name, off, err)
}

func roundUp(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }
