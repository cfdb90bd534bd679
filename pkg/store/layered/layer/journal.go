package layer

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	batchMax = 64                        // records in one pwrite
	reserve  = batchMax / 2 * recordSize // bytes of a half that only COMMITs may use
)

// journal is the state of the log, guarded by Layer.jmu.
type journal struct {
	oldest, cur uint64 // live generations: oldest, and cur = oldest or oldest+1
	curFirst    uint64 // seq of the first record of cur
	pos         int64  // where the next record goes, in bytes within cur's half
	seq         uint64 // last record appended
	lastMark    uint64 // last record appended that is no COMMIT
	committed   uint64 // all records up to here survive a power failure
	chain       uint32 // checksum of the last record
	salt        uint16 // counts failed appends, so that what they left is known
	stopped     bool   // no new background work
	asked       bool   // a background checkpoint was asked for and has not succeeded
	b           *batch // made at the first write
}

// batch gathers records that go out in one pwrite.
type batch struct {
	n    int
	sets [batchMax]pageSet
	buf  [batchMax * recordSize]byte
}

// pageSet is one record's effect on one page.
type pageSet struct {
	src  *page
	i, n int
	s    State
}

// start begins an empty generation whose first record will have seq first.
func (j *journal) start(id, gen, first uint64) {
	j.oldest, j.cur = gen, gen
	j.curFirst, j.seq, j.lastMark, j.committed = first, first-1, first-1, first-1
	j.pos, j.chain = 0, chainSeed(id, gen)
}

// next goes on in the other half, while the old generation stays live.
func (j *journal) next(id uint64) {
	j.cur++
	j.curFirst, j.pos, j.chain = j.seq+1, 0, chainSeed(id, j.cur)
}

// halfOffset is where the half of generation gen begins in the map file.
func halfOffset(half int64, gen uint64) int64 { return 2*headerSize + int64(gen&1)*half }

// append writes the encoded records in b and moves on only when they are all in
// the file: with jmu held, a record is acknowledged only after all before it.
func (l *Layer) append(b []byte, chain uint32) error {
	if _, err := l.mapf.WriteAt(b, halfOffset(l.half, l.j.cur)+l.j.pos); err != nil {
		l.j.salt++
		return fault(l.id, "append to journal", err)
	}
	l.j.pos += int64(len(b))
	l.j.seq += uint64(len(b) / recordSize)
	l.j.chain = chain
	return nil
}

// Mark gives the blocks [block, block+count) a state. For Data the caller has
// written the blocks already. When it returns, the change survives a crash of the
// process; after Flush also one of the machine. Blocks that have the state already
// cost nothing. It is atomic within each aligned 64 MiB. store.ErrReadOnly when
// poisoned, store.ErrNoSpace when the journal cannot grow; then nothing, or a
// prefix, has changed.
func (l *Layer) Mark(block, count int64, s State) error {
	run := [1]Run{{block, count, s}}
	return l.Marks(run[:])
}

// Marks is Mark for many runs, in order, with fewer system calls.
func (l *Layer) Marks(runs []Run) error {
	for _, r := range runs {
		if r.Block < 0 || r.Count <= 0 || r.State > Zero || uint64(r.Block) >= maxBlocks ||
			uint64(r.Count) > maxBlocks-uint64(r.Block) {
			return fault(l.id, "mark", fmt.Errorf("run of %d blocks at %d in state %d: %w", r.Count, r.Block, r.State, store.ErrRange))
		}
	}
	if err := l.enter(); err != nil {
		return err
	}
	defer l.exit()
	at := cursor{runs: runs}
	for !at.done() {
		stop, err := l.markResident(&at, nil)
		switch {
		case err != nil:
			return err
		case stop == stopMissing:
			err = l.markMissing(&at)
		case stop == stopFull:
			err = l.Checkpoint() // the background is outrun
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cursor walks runs piece by piece, each within one page. It moves by numbers
// alone, so that the runs of a single Mark need not leave the stack.
type cursor struct {
	runs []Run
	pos  place
}

type place struct {
	run int
	off int64 // blocks of that run already handled
}

func (c *cursor) done() bool { return c.pos.run == len(c.runs) }

func (c *cursor) piece() (no int64, i, n int, s State) {
	r := &c.runs[c.pos.run]
	b := r.Block + c.pos.off
	i = int(b % pageBlocks)
	return b / pageBlocks, i, int(min(pageBlocks-int64(i), r.Count-c.pos.off)), r.State
}

func (c *cursor) advance(n int) {
	c.pos.off += int64(n)
	if c.pos.off == c.runs[c.pos.run].Count {
		c.pos = place{run: c.pos.run + 1}
	}
}

// stop is why markResident returned before the end.
type stop int

const (
	stopNone    stop = iota
	stopMissing      // the next piece's page is not in memory
	stopFull         // the journal or the set of dirty pages is full
)

// markResident handles pieces as long as their pages are in memory. loaded is one
// more page the caller has just read; valid while the caller holds loadMu.
func (l *Layer) markResident(at *cursor, loaded *page) (stop, error) {
	l.jmu.Lock()
	defer l.jmu.Unlock()
	if l.j.b == nil {
		l.j.b = new(batch)
	}
	b := l.j.b
	b.n = 0
	chain, seq := l.j.chain, l.j.seq
	from := at.pos
	why := stopNone
	for !at.done() {
		no, i, n, s := at.piece()
		p := l.resident(no)
		if p == nil && loaded != nil && loaded.no == no {
			p = loaded
		}
		if p == nil {
			why = stopMissing
			break
		}
		if !b.touches(no) && uniform(p.bits[:], i, n, s) {
			at.advance(n)
			continue
		}
		if l.lacksRoom(b.n + 1) {
			why = stopFull
			break
		}
		seq++
		r := record{op: opSet, state: s, salt: l.j.salt, gen: uint32(l.j.cur), count: uint32(n), seq: seq,
			block: uint64(no)*pageBlocks + uint64(i)}
		chain = r.encode(b.buf[b.n*recordSize:], chain)
		b.sets[b.n] = pageSet{p, i, n, s}
		b.n++
		at.advance(n)
		if b.n == batchMax {
			break
		}
	}
	if err := l.commitBatch(b, chain); err != nil {
		at.pos = from
		return stopNone, err
	}
	return why, nil
}

func (b *batch) touches(no int64) bool {
	for k := range b.n {
		if b.sets[k].src.no == no {
			return true
		}
	}
	return false
}

// commitBatch appends the batch and then applies it.
func (l *Layer) commitBatch(b *batch, chain uint32) error {
	if b.n == 0 {
		return nil
	}
	if err := l.append(b.buf[:b.n*recordSize], chain); err != nil {
		return err
	}
	l.j.lastMark = l.j.seq
	l.mu.Lock()
	for _, set := range b.sets[:b.n] {
		l.apply(set)
	}
	l.mu.Unlock()
	clear(b.sets[:b.n])
	if !l.j.asked && (l.j.pos > l.half/4*3 || len(l.dirty) > l.env.maxDirty()) {
		l.background()
	}
	return nil
}

// apply changes a page, making it dirty first. jmu and mu are held.
func (l *Layer) apply(set pageSet) {
	p := l.dirty[set.src.no]
	if p == nil {
		if p = l.frozen[set.src.no]; p != nil {
			p = p.clone()
		} else {
			p = set.src
			l.env.Pages.drop(l, p.no)
		}
		if l.dirty == nil {
			l.dirty = map[int64]*page{}
		}
		l.dirty[p.no] = p
	}
	data, zero := p.set(set.i, set.n, set.s)
	l.dataBlocks.Add(int64(data))
	l.zeroBlocks.Add(int64(zero))
}

// lacksRoom tells whether n more records must wait for a checkpoint.
func (l *Layer) lacksRoom(n int) bool {
	return l.j.pos+int64(n*recordSize) > l.half-reserve || len(l.dirty)+len(l.frozen) > 2*l.env.maxDirty()
}
