package layer

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Flush makes every write and Mark that returned before the call durable. It
// costs nothing when there were none since the last flush, one sync when no Mark
// changed the map, else two. Calls that wait for a running flush share the next.
// A failed sync poisons the layer.
func (l *Layer) Flush() error {
	ticket := l.flushWant.Add(1)
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	if l.flushDone >= ticket { // one that began after our call has ended
		return l.flushErr
	}
	covers := l.flushWant.Load()
	err := l.flush()
	l.flushDone, l.flushErr = covers, err
	return err
}

// flush syncs data, then commits the records that were appended before it began.
func (l *Layer) flush() error {
	if err := l.refusal("flush"); err != nil {
		return err
	}
	l.jmu.Lock()
	mark := l.j.lastMark
	commit := mark > l.j.committed
	l.jmu.Unlock()
	// After lastMark was read: the data of each of those records is in the count.
	if w := l.written.Load(); w != l.synced.Load() {
		if err := l.data.Sync(); err != nil {
			return l.poisonBy("sync data file", err)
		}
		l.synced.Store(w)
	}
	if !commit {
		return nil
	}
	if err := l.appendCommit(mark); err != nil {
		return err
	}
	if err := l.syncMap(); err != nil {
		return l.poisonBy("sync map file", err)
	}
	l.jmu.Lock()
	defer l.jmu.Unlock()
	l.j.committed = max(l.j.committed, mark)
	return nil
}

func (l *Layer) appendCommit(mark uint64) error {
	l.jmu.Lock()
	defer l.jmu.Unlock()
	if l.j.pos+recordSize > l.half {
		return fault(l.id, "append to journal", fmt.Errorf("no room for a commit: %w", store.ErrNoSpace))
	}
	if l.j.b == nil {
		l.j.b = new(batch)
	}
	r := record{op: opCommit, salt: l.j.salt, gen: uint32(l.j.cur), seq: l.j.seq + 1, block: mark}
	buf := l.j.b.buf[:recordSize]
	return l.append(buf, r.encode(buf, l.j.chain))
}

// syncMap syncs the map file and notes which header that made durable. One sync runs
// at a time, and none after one that has failed: the disk may have lost what the other
// is asked for, and the error is told only once.
func (l *Layer) syncMap() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if why := l.poison.Load(); why != nil {
		return fmt.Errorf("%w since: %s", store.ErrReadOnly, *why)
	}
	seq := l.hdrWritten.Load()
	if err := l.mapf.Sync(); err != nil {
		why := poisonReason(fmt.Sprintf("sync map file: %v", err))
		l.poison.CompareAndSwap(nil, &why)
		return err
	}
	for {
		old := l.hdrDurable.Load()
		if seq <= old || l.hdrDurable.CompareAndSwap(old, seq) {
			return nil
		}
	}
}

// refusal is the error of a layer that takes no more writes, or nil.
func (l *Layer) refusal(op string) error {
	if l.closed.Load() {
		return fault(l.id, op, store.ErrClosed)
	}
	if why := l.poison.Load(); why != nil {
		return fault(l.id, op, fmt.Errorf("%w since: %s", store.ErrReadOnly, *why))
	}
	return nil
}

// poisonBy poisons the layer because of err and returns what the caller answers.
func (l *Layer) poisonBy(op string, err error) error {
	perr := l.Poison(fmt.Sprintf("%s: %v", op, err))
	if perr != nil {
		return fault(l.id, op, fmt.Errorf("%w: %w; the reason could not be recorded: %v", store.ErrReadOnly, err, perr))
	}
	return fault(l.id, op, fmt.Errorf("%w: %w", store.ErrReadOnly, err))
}

// Poisoned is why the layer takes no more writes, "" if it does.
func (l *Layer) Poisoned() string {
	if why := l.poison.Load(); why != nil {
		return *why
	}
	return ""
}

func poisonReason(reason string) string {
	if reason == "" {
		return "unknown"
	}
	return reason[:min(len(reason), maxPoison)]
}

// Poison makes the layer refuse every later write and flush with
// store.ErrReadOnly naming the reason, now and after reopening. The first reason
// stays. An error says that it could not be recorded durably; it holds in this
// process all the same, and calling again tries again.
func (l *Layer) Poison(reason string) error {
	if l.closed.Load() {
		return fault(l.id, "poison", store.ErrClosed)
	}
	reason = poisonReason(reason)
	l.poison.CompareAndSwap(nil, &reason)
	l.ready.Store(false)
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	if l.hdr.id.Poison != "" {
		return nil
	}
	h := l.hdr
	h.seq++
	h.clean = false
	h.id.Poison = l.Poisoned()
	raw, err := h.encode()
	if err != nil {
		return fault(l.id, "poison", err)
	}
	// Without a sync to trust, the last header known to be durable must survive.
	slot := 1 - l.hdrSlot
	if l.hdrDurable.Load() != l.hdr.seq {
		slot = l.hdrSlot
	}
	if _, err := l.mapf.WriteAt(raw, int64(slot)*headerSize); err != nil {
		return fault(l.id, "poison", err)
	}
	if err := l.mapf.Sync(); err != nil {
		return fault(l.id, "poison", err)
	}
	l.hdr, l.hdrSlot = h, slot
	l.hdrWritten.Store(h.seq)
	l.hdrDurable.Store(h.seq)
	return nil
}
