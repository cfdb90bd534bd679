package layer

import (
	"fmt"
	"maps"
	"slices"
)

// Checkpoint writes the changed map pages, so that their journal records are not
// needed any more. Marks and flushes go on meanwhile. Pages are written only after
// their data is synced and their records are committed.
func (l *Layer) Checkpoint() error {
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if err := l.refusal("checkpoint"); err != nil {
		return err
	}
	if l.restart {
		return nil // nothing was written yet, and the first write does it
	}
	return l.checkpoint(false)
}

// background starts a checkpoint that nobody waits for but Close. jmu is held.
// One that failed is not repeated until a writer has to do it itself.
func (l *Layer) background() {
	if l.j.stopped {
		return
	}
	l.j.asked = true
	l.bg.Go(func() {
		_ = l.Checkpoint() // a failed sync has poisoned; else the next one reports it
	})
}

func (l *Layer) stopBackground() {
	l.jmu.Lock()
	l.j.stopped = true
	l.jmu.Unlock()
	l.bg.Wait()
}

// checkpoint runs under ckptMu. With final set nothing else writes, and the
// header that ends it bears the clean mark.
func (l *Layer) checkpoint(final bool) error {
	for try := range 2 {
		l.jmu.Lock()
		need := l.j.pos > l.half/2 ||
			try == 0 && (l.j.lastMark > l.ckptSeq.Load() || l.j.cur != l.j.oldest)
		l.jmu.Unlock()
		if !need {
			break
		}
		if err := l.round(); err != nil {
			return err
		}
	}
	switch {
	case final:
		return l.writeClean()
	case l.isStale():
		return l.updateHeader(func(*header) {})
	}
	return nil
}

// round is one pass: freeze, flush, write pages, write the header that makes them
// count. A failure or crash at any point leaves the header before, its page slots
// and the journal generations it names as they were.
func (l *Layer) round() error {
	// The header on disk names the next generation; it must be durable before
	// the first record goes there, because that half held an older one.
	if err := l.ensureHeader(); err != nil {
		return err
	}
	f := l.freeze()
	end := l.dataEnd.Load() // before the flush, which makes it durable
	err := l.Flush()
	if err == nil {
		err = l.writePages(f)
	}
	sealed := false
	if err == nil {
		err = l.updateHeader(func(h *header) {
			f.describe(h)
			h.gen, h.firstSeq = f.gen, f.first
			h.mapSize, h.dataSize = l.mapEnd, max(h.dataSize, end)
			sealed = h.id.Sealed
		})
	}
	l.thaw(f, err == nil)
	if err != nil || !sealed {
		return err
	}
	return l.punchJournal(f.gen - 1)
}

// frost is what freeze found: the state after all records up to seq.
type frost struct {
	pages      map[int64]*page
	seq        uint64
	gen, first uint64 // oldest generation that is needed after this checkpoint
	data, zero int64
}

func (f *frost) describe(h *header) {
	h.ckptSeq, h.data, h.zero = f.seq, f.data, f.zero
}

// freeze sets the dirty pages aside and turns to the other half of the journal,
// unless an earlier checkpoint did not get as far as freeing that.
func (l *Layer) freeze() *frost {
	l.jmu.Lock()
	defer l.jmu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.restart && l.j.cur == l.j.oldest {
		l.j.next(l.id)
	}
	l.frozen, l.dirty = l.dirty, nil
	f := &frost{pages: l.frozen, seq: l.j.seq, gen: l.j.cur, first: l.j.curFirst}
	f.data, f.zero = l.Blocks()
	return f
}

// thaw ends a checkpoint: pages that are on disk may leave memory, or else all
// become dirty again.
func (l *Layer) thaw(f *frost, ok bool) {
	l.jmu.Lock()
	defer l.jmu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = nil
	for no, p := range f.pages {
		newer := l.dirty[no]
		switch {
		case !ok && newer == nil:
			if l.dirty == nil {
				l.dirty = map[int64]*page{}
			}
			l.dirty[no] = p
		case ok && newer == nil:
			p.slot = p.otherSlot()
			l.env.Pages.put(l, p)
		case ok:
			newer.slot = p.otherSlot()
		}
	}
	if ok {
		l.j.oldest = l.j.cur
		l.j.asked = false
	}
}

// otherSlot is where the page goes next: not where it is as of the last checkpoint.
func (p *page) otherSlot() int8 {
	if p.slot == 0 {
		return 1
	}
	return 0
}

// writePages writes frozen pages to the slots the last header does not count on,
// and syncs. Nothing counts on them until the next header is written.
func (l *Layer) writePages(f *frost) error {
	if len(f.pages) == 0 {
		return nil
	}
	var buf [pageSlot]byte
	for _, no := range slices.Sorted(maps.Keys(f.pages)) {
		p := f.pages[no]
		p.encode(buf[:], l.id, f.seq)
		off := pageOffset(l.half, no) + int64(p.otherSlot())*pageSlot
		if _, err := l.mapf.WriteAt(buf[:], off); err != nil {
			return fault(l.id, fmt.Sprintf("write map page %d", no), err)
		}
		l.mapEnd = max(l.mapEnd, off+pageSlot)
	}
	if err := l.syncMap(); err != nil {
		return l.poisonBy("sync map file", err)
	}
	return nil
}

// punchJournal gives back the half of a dead generation, once the header that
// drops it is durable. Only space depends on it. The sync after it is for file
// systems that keep files open which have something to sync.
func (l *Layer) punchJournal(gen uint64) error {
	if err := l.ensureHeader(); err != nil {
		return err
	}
	if l.mapf.PunchHole(halfOffset(l.half, gen), l.half) != nil {
		return nil
	}
	if err := l.syncMap(); err != nil {
		return l.poisonBy("sync map file", err)
	}
	return nil
}
