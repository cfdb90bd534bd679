package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// Layer is one open layer. All methods may be called concurrently; the caller
// orders writes to the same block, and lets nothing run when it calls Close or
// Abandon.
//
// Locks, in the order in which they are taken: ckptMu, flushMu, loadMu, hdrMu,
// syncMu, jmu, mu. Map pages in memory change only with jmu and mu both held, so holding
// either is enough to read them, and reads never wait for journal I/O.
type Layer struct {
	env        *Env
	id         uint64
	half       int64 // bytes of one journal half
	data, mapf vfs.File

	ready    atomic.Bool   // writes may go ahead: header unclean, generation ours
	inflight atomic.Int64  // writes that passed ready
	written  atomic.Uint64 // changes of the data file that are complete
	synced   atomic.Uint64 // how many of them are on stable storage
	poison   atomic.Pointer[string]

	dataBlocks, zeroBlocks atomic.Int64

	ckptMu  sync.Mutex // one checkpoint or change of readiness at a time
	closed  atomic.Bool
	restart bool  // under ckptMu: the first write must start a new generation
	mapEnd  int64 // under ckptMu: end of the last page slot written

	ckptSeq  atomic.Uint64 // hdr.ckptSeq, for reading pages
	pagesEnd atomic.Int64  // no page slot that counts ends beyond
	dataEnd  atomic.Int64  // end of the data file as far as writes are complete

	flushMu   sync.Mutex
	flushWant atomic.Uint64 // tickets handed out
	flushDone uint64        // under flushMu: tickets covered by the last flush
	flushErr  error         // under flushMu: its result

	loadMu sync.Mutex // one page at a time comes from disk

	hdrMu      sync.Mutex
	hdr        header // as last written, or to be written next
	hdrSlot    int
	hdrStale   bool          // hdr holds what was not written yet
	hdrWritten atomic.Uint64 // seq of the last header written
	hdrDurable atomic.Uint64 // seq of the last one known to be durable

	syncMu sync.Mutex // one sync of the map file at a time

	jmu sync.Mutex
	j   journal

	mu     sync.RWMutex
	dirty  map[int64]*page // differ from what the last checkpoint wrote
	frozen map[int64]*page // being written by a checkpoint; never changed

	bg sync.WaitGroup
}

// Create makes a new, empty layer, clean: its first write clears the mark, which
// costs a sync. Both files are new (else store.ErrConflict) and durable when it
// returns, at the price of one file sync and one directory sync. On error
// nothing is left behind.
func Create(env *Env, id Identity) (*Layer, error) { return create(env, id, true) }

// CreateActive is Create for a layer that is written to at once: it does not
// bear the clean mark, so the first write needs no sync.
func CreateActive(env *Env, id Identity) (*Layer, error) { return create(env, id, false) }

func create(env *Env, id Identity, clean bool) (*Layer, error) {
	half := env.half()
	if half < minHalf || half > maxHalf || half%pageSectors != 0 {
		return nil, fault(id.ID, "create", fmt.Errorf("journal half of %d bytes: %w", half, store.ErrInvalid))
	}
	id.Poison = ""
	h := header{seq: 1, gen: 1, firstSeq: 1, half: half, mapSize: pageOffset(half, 0), clean: clean, cacheID: env.CacheID, id: id}
	raw, err := h.encode()
	if err != nil {
		return nil, fault(id.ID, "create", err)
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	data, err := env.FS.OpenFile(env.DataPath(id.ID), flags, 0o600)
	if err != nil {
		return nil, createFault(id.ID, err)
	}
	mapf, err := env.FS.OpenFile(env.MapPath(id.ID), flags, 0o600)
	if err != nil {
		data.Close()
		_ = env.FS.Remove(env.DataPath(id.ID)) // the catalogue names no such layer
		return nil, createFault(id.ID, err)
	}
	l := newLayer(env, h, 0, data, mapf)
	err = mapf.Truncate(h.mapSize) // so that a cut-off journal is seen
	if err == nil {
		_, err = mapf.WriteAt(raw, 0)
	}
	if err == nil {
		err = mapf.Sync()
	}
	if err == nil {
		err = env.FS.SyncDir(env.Dir)
	}
	if err != nil {
		_ = l.closeFiles()
		_ = Remove(env, id.ID)
		return nil, fault(id.ID, "create", err)
	}
	l.hdrDurable.Store(h.seq)
	l.ready.Store(!clean)
	l.j.start(l.id, h.gen, h.firstSeq)
	return l, nil
}

func createFault(id uint64, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("layer %016x: create: %w: %w", id, store.ErrConflict, err)
	}
	return fault(id, "create", err)
}

func newLayer(env *Env, h header, slot int, data, mapf vfs.File) *Layer {
	l := &Layer{env: env, id: h.id.ID, half: h.half, data: data, mapf: mapf, hdr: h, hdrSlot: slot}
	l.hdrWritten.Store(h.seq)
	l.dataBlocks.Store(h.data)
	l.zeroBlocks.Store(h.zero)
	l.ckptSeq.Store(h.ckptSeq)
	l.mapEnd = h.mapSize
	l.pagesEnd.Store(h.mapSize)
	return l
}

// Remove unlinks both files of a layer that is not open. Files that do not exist
// are no error. The removal is durable only after a SyncDir of Dir, which is
// left to the caller.
func Remove(env *Env, id uint64) error {
	var first error
	for _, name := range []string{env.DataPath(id), env.MapPath(id)} {
		if err := env.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = fault(id, "remove", err)
		}
	}
	return first
}

// ID is the layer's number.
func (l *Layer) ID() uint64 { return l.id }

// Identity is what the header says, or will say when it is next written.
func (l *Layer) Identity() Identity {
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	id := l.hdr.id
	id.Poison = l.Poisoned()
	return id
}

// Blocks tells how many blocks are in state Data and how many in state Zero.
func (l *Layer) Blocks() (data, zero int64) { return l.dataBlocks.Load(), l.zeroBlocks.Load() }

// Empty tells whether every block is Absent.
func (l *Layer) Empty() bool {
	data, zero := l.Blocks()
	return data == 0 && zero == 0
}

// Close makes everything durable, writes the clean mark and closes the files. The
// files are closed even when it fails. A poisoned layer, and one that lost its
// page cache and was not written to since, are left as they are.
func (l *Layer) Close() error {
	l.stopBackground()
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if l.closed.Load() {
		return nil
	}
	var err error
	if l.poison.Load() == nil && !l.restart {
		err = l.checkpoint(true)
	}
	l.ready.Store(false)
	l.closed.Store(true)
	if cerr := l.closeFiles(); err == nil && cerr != nil {
		err = fault(l.id, "close", cerr)
	}
	return err
}

// Abandon closes the files and writes and syncs nothing, as if the process had
// ended here.
func (l *Layer) Abandon() {
	l.stopBackground()
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if l.closed.Load() {
		return
	}
	l.ready.Store(false)
	l.closed.Store(true)
	_ = l.closeFiles()
}

func (l *Layer) closeFiles() error {
	l.env.Pages.forget(l)
	err := l.data.Close()
	if merr := l.mapf.Close(); err == nil {
		err = merr
	}
	return err
}

// Stats describes what a layer holds in memory and in its journal.
type Stats struct {
	// Generation is the journal generation that is appended to.
	Generation uint64
	// JournalBytes is how much of its half is used, JournalSize the half's size.
	JournalBytes, JournalSize int64
	// Seq is the last record's sequence number, Committed the last one known to
	// survive a power failure.
	Seq, Committed uint64
	// DirtyPages counts map pages that differ from the last checkpoint.
	DirtyPages int
	// Clean: the header bears the clean mark.
	Clean bool
}

// Stats is a snapshot of the layer's figures.
func (l *Layer) Stats() Stats {
	l.hdrMu.Lock()
	defer l.hdrMu.Unlock()
	l.jmu.Lock()
	defer l.jmu.Unlock()
	return Stats{Generation: l.j.cur, JournalBytes: l.j.pos, JournalSize: l.half, Seq: l.j.seq,
		Committed: l.j.committed, DirtyPages: len(l.dirty) + len(l.frozen), Clean: l.hdr.clean}
}
