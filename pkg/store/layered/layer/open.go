package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// Recovery says what Open found.
type Recovery struct {
	// Replayed counts journal records that were applied.
	Replayed int
	// Discarded counts records that were in the journal but not committed, and
	// were not applied because the page cache had been lost.
	Discarded int
	// NewCache: the page cache is not the one the layer was last written through.
	NewCache bool
	// Lost: writes that were acknowledged but not flushed may be gone. The
	// caller must remember that durably before it writes to the layer: the first
	// write clears every trace of it here. It means nothing for a sealed layer
	// whose clients had been told no later than at its seal.
	Lost bool
	// Clean: the layer bore the clean mark.
	Clean bool
	// Poison is why the layer is read-only, "" if it is not.
	Poison string
}

// Open opens a layer and replays its journal in memory. It writes nothing; the
// first write after it costs one to three syncs of the map file.
// store.ErrNotFound when neither file exists; store.ErrCorrupt, with file and
// place, when something is missing, cut off or damaged; store.ErrUnsupported when
// another version wrote it.
func Open(env *Env, id uint64) (*Layer, Recovery, error) {
	data, mapf, err := openFiles(env, id)
	if err != nil {
		return nil, Recovery{}, err
	}
	h, slot, err := readHeader(mapf, id)
	if err == nil {
		l := newLayer(env, h, slot, data, mapf)
		var rec Recovery
		if rec, err = l.recover(true); err == nil {
			return l, rec, nil
		}
	}
	data.Close()
	mapf.Close()
	return nil, Recovery{}, fault(id, "open", err)
}

// ReadIdentity reads a layer's identity without opening it.
func ReadIdentity(env *Env, id uint64) (Identity, error) {
	f, err := env.FS.OpenFile(env.MapPath(id), os.O_RDONLY, 0)
	if err != nil {
		return Identity{}, openFault(id, err)
	}
	defer f.Close()
	h, _, err := readHeader(f, id)
	if err != nil {
		return Identity{}, fault(id, "read identity", err)
	}
	return h.id, nil
}

func openFiles(env *Env, id uint64) (data, mapf vfs.File, err error) {
	data, derr := env.FS.OpenFile(env.DataPath(id), os.O_RDWR, 0)
	mapf, merr := env.FS.OpenFile(env.MapPath(id), os.O_RDWR, 0)
	if derr == nil && merr == nil {
		return data, mapf, nil
	}
	noData, noMap := errors.Is(derr, fs.ErrNotExist), errors.Is(merr, fs.ErrNotExist)
	if derr == nil {
		data.Close()
	}
	if merr == nil {
		mapf.Close()
	}
	switch {
	case noData && merr == nil:
		return nil, nil, fault(id, "open", fmt.Errorf("data file %s is missing: %w", env.DataPath(id), store.ErrCorrupt))
	case noMap && derr == nil:
		return nil, nil, fault(id, "open", fmt.Errorf("map file %s is missing: %w", env.MapPath(id), store.ErrCorrupt))
	case derr != nil:
		return nil, nil, openFault(id, derr)
	}
	return nil, nil, openFault(id, merr)
}

func openFault(id uint64, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("layer %016x: open: %w: %w", id, store.ErrNotFound, err)
	}
	return fault(id, "open", err)
}

func readHeader(f vfs.File, id uint64) (header, int, error) {
	var raw [2 * headerSize]byte
	if err := readFull(f, raw[:], 0); err != nil {
		return header{}, 0, fmt.Errorf("map file: read header: %w", err)
	}
	h, slot, err := chooseHeader(raw[:headerSize], raw[headerSize:])
	if err != nil {
		return header{}, 0, fmt.Errorf("map file: %w", err)
	}
	if h.id.ID != id {
		return header{}, 0, fmt.Errorf("map file belongs to layer %016x: %w", h.id.ID, store.ErrCorrupt)
	}
	return h, slot, nil
}

// recover checks the files against the header and replays the journal. cached says that
// the page cache holds what was written through it; else it counts as lost.
func (l *Layer) recover(cached bool) (Recovery, error) {
	h := &l.hdr
	rec := Recovery{NewCache: !cached || h.cacheID != l.env.CacheID, Clean: h.clean, Poison: h.id.Poison}
	size, err := l.checkSizes(h)
	if err != nil {
		return rec, err
	}
	l.dataEnd.Store(size)
	if err := l.checkStale(); err != nil {
		return rec, err
	}
	kept := !rec.NewCache && rec.Poison == "" // all that was written is there
	old, cur, err := l.scanJournal(kept)
	if err != nil {
		return rec, err
	}
	limit := cur.seq
	switch {
	case cur.seq < h.ckptSeq || h.clean && cur.lastMark < h.endSeq:
		return rec, fmt.Errorf("map file: journal ends at record %d, before %d: %w", cur.seq, max(h.ckptSeq, h.endSeq), store.ErrCorrupt)
	case !kept && h.clean:
		limit = max(h.endSeq, h.ckptSeq)
	case !kept:
		limit = max(cur.lastCommit, h.ckptSeq)
	}
	if err := l.replay(old, cur, limit, &rec); err != nil {
		return rec, err
	}
	rec.Lost = rec.Poison != "" || rec.NewCache && (!h.clean || rec.Discarded > 0)
	l.adopt(cur, rec)
	return rec, nil
}

// adopt sets up the journal and the memory of what is synced after a replay.
func (l *Layer) adopt(t tail, rec Recovery) {
	h := &l.hdr
	l.j = journal{oldest: h.gen, cur: t.gen, curFirst: t.first, pos: t.pos, seq: t.seq,
		lastMark: t.lastMark, committed: h.ckptSeq, chain: t.chain, salt: t.salt + 1}
	if rec.Poison != "" {
		l.poison.Store(&rec.Poison)
	}
	switch {
	case rec.NewCache:
		// What is read now came from the disk, so it is durable.
		l.hdrDurable.Store(h.seq)
		l.j.committed = l.j.lastMark
		l.restart = true
	case h.clean:
		// The mark was written after everything else was synced. The mark itself
		// may not have been.
		l.j.committed = l.j.lastMark
	default:
		// Nobody knows what was synced: neither COMMITs nor data nor header.
		l.written.Store(1)
	}
}

// checkSizes refuses files that were cut off, and answers the data file's size.
func (l *Layer) checkSizes(h *header) (int64, error) {
	size, err := l.mapf.Size()
	if err != nil {
		return 0, err
	}
	if size < h.mapSize {
		return 0, fmt.Errorf("map file is cut off: %d bytes, at least %d expected: %w", size, h.mapSize, store.ErrCorrupt)
	}
	if size, err = l.data.Size(); err != nil {
		return 0, err
	}
	if size < h.dataSize {
		return 0, fmt.Errorf("data file is cut off: %d bytes, at least %d expected: %w", size, h.dataSize, store.ErrCorrupt)
	}
	return size, nil
}

// checkStale refuses a header older than the journal: the newer one was damaged
// after it had become durable, for a torn write leaves no such trace.
func (l *Layer) checkStale() error {
	for half := range uint64(2) {
		var b [recordSize]byte
		if err := readFull(l.mapf, b[:], halfOffset(l.half, half)); err != nil {
			return fmt.Errorf("map file: read journal: %w", err)
		}
		gen := uint64(recordGen(b[:]))
		if gen <= l.hdr.gen+1 || gen&1 != half {
			continue
		}
		if _, _, ok := decodeRecord(b[:], chainSeed(l.id, gen)); ok {
			return fmt.Errorf("map file: newest header is damaged: journal is at generation %d, header at %d: %w", gen, l.hdr.gen, store.ErrCorrupt)
		}
	}
	return nil
}
