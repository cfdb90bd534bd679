package layer

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// writeHeader changes the header and writes it to the slot that does not hold the
// last one, which is made durable first: a torn write always leaves one whole.
// syncFailed tells failed syncs, which poison, from other errors. hdrMu is held.
func (l *Layer) writeHeader(change func(*header)) (syncFailed bool, err error) {
	if l.hdrDurable.Load() != l.hdrWritten.Load() {
		if err := l.syncMap(); err != nil {
			return true, err
		}
	}
	h := l.hdr
	change(&h)
	h.seq++
	raw, err := h.encode()
	if err != nil {
		return false, fault(l.id, "write header", err)
	}
	slot := 1 - l.hdrSlot
	if _, err := l.mapf.WriteAt(raw, int64(slot)*headerSize); err != nil {
		return false, fault(l.id, "write header", err)
	}
	l.hdr, l.hdrSlot, l.hdrStale = h, slot, false
	l.hdrWritten.Store(h.seq)
	l.ckptSeq.Store(h.ckptSeq)
	l.pagesEnd.Store(h.mapSize)
	return false, nil
}

// updateHeader writes a changed header; the next sync makes it durable.
func (l *Layer) updateHeader(change func(*header)) error {
	l.hdrMu.Lock()
	syncFailed, err := l.writeHeader(change)
	l.hdrMu.Unlock()
	if syncFailed {
		return l.poisonBy("sync map file", err)
	}
	return err
}

// ensureHeader makes the header that was written last durable.
func (l *Layer) ensureHeader() error {
	if l.hdrDurable.Load() == l.hdrWritten.Load() {
		return nil
	}
	if err := l.syncMap(); err != nil {
		return l.poisonBy("sync map file", err)
	}
	return nil
}

// Rewrite changes the identity and makes it durable. ID and Poison stay what they
// are. store.ErrInvalid when it does not fit into 2 KiB. It works on a poisoned
// layer as long as the map file can be written.
func (l *Layer) Rewrite(change func(*Identity)) error {
	if l.closed.Load() {
		return fault(l.id, "rewrite header", store.ErrClosed)
	}
	err := l.updateHeader(func(h *header) {
		id := h.id
		change(&id)
		id.ID, id.Poison = h.id.ID, h.id.Poison
		h.id = id
	})
	if err != nil {
		return err
	}
	return l.ensureHeader()
}

// Seal flushes and notes in the header that what the layer shows will not change;
// the note is written with the next header. Marks that fill in inherited blocks
// are still allowed. Call Checkpoint later, in the background, to free memory and
// journal.
func (l *Layer) Seal() error {
	if err := l.Flush(); err != nil {
		return err
	}
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	l.hdrStale = l.hdrStale || !l.hdr.id.Sealed
	l.hdr.id.Sealed = true
	return nil
}

// makeReady does what must be durable before the first write: it clears the clean
// mark, or, after the page cache was lost, begins a new generation. A process that
// ended may have done so too, and not have come to the sync.
func (l *Layer) makeReady() error {
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if err := l.refusal("write"); err != nil {
		return err
	}
	if l.ready.Load() {
		return nil
	}
	if l.restart {
		if err := l.newGeneration(); err != nil {
			return err
		}
	}
	if l.isClean() {
		if err := l.updateHeader(func(h *header) { h.clean = false }); err != nil {
			return err
		}
	}
	if err := l.ensureHeader(); err != nil {
		return err
	}
	l.ready.Store(true)
	if err := l.refusal("write"); err != nil { // poisoned meanwhile
		l.ready.Store(false)
		return err
	}
	return nil
}

// Settle takes away, durably, the traces of a page cache that was lost, as the first
// write would, and flushes. For callers that know that nothing acknowledged went with
// it.
func (l *Layer) Settle() error {
	if err := l.makeReady(); err != nil {
		return err
	}
	return l.Flush()
}

func (l *Layer) isClean() bool {
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	return l.hdr.clean
}

func (l *Layer) isStale() bool {
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	return l.hdrStale
}

// newGeneration turns what was replayed after a loss of the page cache into pages
// and a header that names a generation no record on disk belongs to. What was
// replayed was committed, hence its data is durable.
func (l *Layer) newGeneration() error {
	f := l.freeze()
	err := l.writePages(f)
	gen := uint64(0)
	if err == nil {
		err = l.updateHeader(func(h *header) {
			f.describe(h)
			gen = h.gen + 2 // neither of the two that h names
			h.gen, h.firstSeq = gen, f.seq+1
			h.cacheID, h.clean = l.env.CacheID, false
			h.mapSize, h.dataSize = l.mapEnd, l.dataEnd.Load()
		})
	}
	if err == nil {
		err = l.ensureHeader()
	}
	l.thaw(f, err == nil)
	if err != nil {
		return err
	}
	l.jmu.Lock()
	defer l.jmu.Unlock()
	l.j.start(l.id, gen, f.seq+1)
	l.restart = false
	return nil
}

// MarkClean flushes and writes the durable mark that nothing is unflushed. The
// next write clears it first, which costs a sync. store.ErrBusy when a write is
// under way; nothing is marked then.
func (l *Layer) MarkClean() error {
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if err := l.refusal("mark clean"); err != nil {
		return err
	}
	if l.restart || l.isClean() {
		return nil
	}
	wasReady := l.ready.Swap(false)
	err := l.writeClean()
	if err != nil && l.poison.Load() == nil {
		l.ready.Store(wasReady)
	}
	return err
}

// writeClean flushes and writes the clean mark. Writers are shut out by ready,
// unless they were in already.
func (l *Layer) writeClean() error {
	l.ready.Store(false)
	if l.inflight.Load() != 0 {
		return fault(l.id, "mark clean", fmt.Errorf("a write is under way: %w", store.ErrBusy))
	}
	if err := l.Flush(); err != nil {
		return err
	}
	l.jmu.Lock()
	end := l.j.lastMark
	l.jmu.Unlock()
	if l.isClean() && !l.isStale() {
		return nil
	}
	if err := l.updateHeader(func(h *header) { h.clean, h.endSeq = true, end }); err != nil {
		return err
	}
	return l.ensureHeader()
}
