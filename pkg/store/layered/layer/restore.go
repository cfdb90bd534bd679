package layer

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Restore takes a poisoned layer back to what is known to be on the disk, as if the
// machine had lost power at the failed sync, and lets it be written again: marks after
// the last COMMIT are forgotten. It is for layers of which nothing that was promised
// can be among those, hence for sealed ones, and for a caller who alone writes to them;
// store.ErrBusy if somebody else does. Whoever remembers states of the layer asks
// again. A layer that is not poisoned stays as it is.
//
// Nothing that the failed sync covered is trusted to a later one: the header is written
// again where it is, and the first write to the layer puts what was replayed into new
// pages and a new generation before anything else, with the header that no longer names
// the poison. Data of forgotten marks is the caller's to write again. On error the layer
// stays poisoned, and so it does on the disk until that first write.
func (l *Layer) Restore() error {
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	switch {
	case l.closed.Load():
		return fault(l.id, "restore", store.ErrClosed)
	case l.poison.Load() == nil:
		return nil
	case l.inflight.Load() != 0:
		return fault(l.id, "restore", fmt.Errorf("a write is under way: %w", store.ErrBusy))
	}
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	l.loadMu.Lock()
	defer l.loadMu.Unlock()
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	if err := l.rewriteDoubtful(); err != nil {
		return fault(l.id, "restore", err)
	}
	h := l.hdr
	h.id.Poison = ""
	durable := newLayer(l.env, h, l.hdrSlot, l.data, l.mapf)
	if _, err := durable.recover(false); err != nil {
		return fault(l.id, "restore", err)
	}
	l.become(durable)
	return nil
}

// rewriteDoubtful makes the last header durable if it is not known to be: a sync that
// failed may have left it clean in the page cache and not on the disk, where no later
// sync would find it. The same bytes go to the same place, so that a torn write harms
// nothing. hdrMu is held.
func (l *Layer) rewriteDoubtful() error {
	var raw [2 * headerSize]byte
	if err := readFull(l.mapf, raw[:], 0); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	// One that names the poison may have been written, and the sync of that have failed.
	last, slot, err := chooseHeader(raw[:headerSize], raw[headerSize:])
	switch {
	case err != nil:
		return err
	case last.seq < l.hdr.seq: // ours never came to the disk
		return l.rewriteHeader(l.hdr.encode())
	case last.seq > l.hdr.seq:
		l.hdr.seq, l.hdrSlot = last.seq, slot
		l.hdrWritten.Store(last.seq)
	case l.hdrDurable.Load() == l.hdrWritten.Load():
		return nil
	}
	return l.rewriteHeader(raw[slot*headerSize:][:headerSize], nil)
}

func (l *Layer) rewriteHeader(raw []byte, err error) error {
	if err != nil {
		return err
	}
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if _, err := l.mapf.WriteAt(raw, int64(l.hdrSlot)*headerSize); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	if err := l.mapf.Sync(); err != nil {
		return fmt.Errorf("sync map file: %w", err)
	}
	l.hdrWritten.Store(l.hdr.seq)
	l.hdrDurable.Store(l.hdr.seq)
	return nil
}

// become takes over what was recovered from the disk. ckptMu, flushMu, loadMu and hdrMu
// are held. Readers see the counts before or after, and the pages with them: a count of
// zero only where all is absent.
func (l *Layer) become(durable *Layer) {
	l.jmu.Lock()
	defer l.jmu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.env.Pages.forget(l)
	stopped, b := l.j.stopped, l.j.b
	l.j = durable.j
	l.j.stopped, l.j.b = stopped, b
	l.dirty, l.frozen = durable.dirty, nil
	l.dataBlocks.Store(durable.dataBlocks.Load())
	l.zeroBlocks.Store(durable.zeroBlocks.Load())
	l.ckptSeq.Store(durable.ckptSeq.Load())
	l.pagesEnd.Store(durable.pagesEnd.Load())
	l.mapEnd, l.restart = durable.mapEnd, true
	l.hdr.id.Poison = ""
	l.synced.Store(l.written.Load()) // what is still unsynced belongs to no mark
	l.poison.Store(nil)
}
