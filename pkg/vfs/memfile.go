package vfs

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// maxUnsynced is how many unsynced changes of one file a Mem remembers.
const maxUnsynced = 1 << 16

// memData is a file of a Mem. Lock order: Mem.mu, then mu of one file; nothing
// locks two files at a time.
type memData struct {
	opens    atomic.Int64
	unlinked bool // guarded by Mem.mu

	mu       sync.RWMutex
	live     pageSet // what processes read
	disk     pageSet // what is durable
	unsynced []fileOp
	settled  int64 // changes that are durable or lost, so unsynced[0] is number settled
}

func newMemData() *memData { return &memData{live: newPageSet(), disk: newPageSet()} }

// fileOp is one change of a file. A write keeps the versions of the pages it made.
type fileOp struct {
	kind   Kind // OpWrite, OpTruncate or OpPunch
	off    int64
	length int64 // OpTruncate: the size
	pages  []*page
	lost   bool // a sync that covered it failed: no later sync makes it durable
}

// remember appends a change. Whoever calls it holds mu or Mem.mu exclusively.
func (d *memData) remember(op fileOp) {
	d.unsynced = append(d.unsynced, op)
	if len(d.unsynced) > maxUnsynced {
		d.settle(d.settled + maxUnsynced/2)
	}
}

// settle makes the changes before number upTo durable, except lost ones.
func (d *memData) settle(upTo int64) {
	n := upTo - d.settled
	if n <= 0 {
		return
	}
	for _, op := range d.unsynced[:n] {
		if op.lost {
			continue
		}
		switch op.kind {
		case OpTruncate:
			d.disk.truncate(op.length)
		case OpPunch:
			d.disk.zero(op.off, op.length)
		default:
			// The page as it was after this write holds the writes before it, too.
			for i, p := range op.pages {
				d.disk.pages[op.off/pageSize+int64(i)] = p
			}
			d.disk.size = max(d.disk.size, op.off+op.length)
		}
	}
	rest := copy(d.unsynced, d.unsynced[n:])
	clear(d.unsynced[rest:])
	d.unsynced = d.unsynced[:rest]
	d.settled = upTo
}

// truncate answers by how many pages the file grew.
func (d *memData) truncate(size int64) int64 {
	before := len(d.live.pages)
	d.live.truncate(size)
	d.remember(fileOp{kind: OpTruncate, length: size})
	return int64(len(d.live.pages) - before)
}

// memFile is a memData opened by a process.
type memFile struct {
	m      *Mem
	d      *memData
	name   string
	mode   int
	epoch  uint64
	closed atomic.Bool
	direct atomic.Bool
}

// SetDirect makes the file refuse what direct I/O refuses, or not. EINVAL unless the disk
// allows it.
func (f *memFile) SetDirect(on bool) error {
	if err := f.enter("set direct I/O"); err != nil {
		return err
	}
	defer f.leave()
	if on && !f.m.direct {
		return pathError("set direct I/O", f.name, syscall.EINVAL)
	}
	f.direct.Store(on)
	return nil
}

// aligned refuses what is not in whole blocks where the file is used directly.
func (f *memFile) aligned(op string, p []byte, off int64) error {
	if !f.direct.Load() || len(p) == 0 || alignedRange(off, int64(len(p))) && address(p)%directUnit == 0 {
		return nil
	}
	return pathError(op, f.name, syscall.EINVAL)
}

// enter holds Mem.mu shared when it answers nil; then leave must be called.
func (f *memFile) enter(op string) error {
	f.m.mu.RLock()
	var err error
	switch {
	case f.closed.Load():
		err = os.ErrClosed
	case f.epoch != f.m.epoch:
		err = ErrStale
	default:
		return nil
	}
	f.m.mu.RUnlock()
	return pathError(op, f.name, err)
}

func (f *memFile) leave() { f.m.mu.RUnlock() }

// enterRange is enter for an operation on a range that files opened in the denied
// mode cannot do.
func (f *memFile) enterRange(op string, denied int, off, length int64) error {
	switch {
	case f.mode == denied:
		return pathError(op, f.name, syscall.EBADF)
	case off < 0 || length < 0 || off+length < 0:
		return pathError(op, f.name, syscall.EINVAL)
	}
	return f.enter(op)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.aligned("read", p, off); err != nil {
		return 0, err
	}
	if err := f.enterRange("read", os.O_WRONLY, off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.leave()
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	n := f.d.live.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.aligned("write", p, off); err != nil {
		return 0, err
	}
	if err := f.enterRange("write", os.O_RDONLY, off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.leave()
	if err := f.write("write", p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) write(op string, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	more := f.d.live.missing(off, int64(len(p)))
	if f.m.used.Add(more)*pageSize > f.m.capacity && more > 0 {
		f.m.used.Add(-more)
		return pathError(op, f.name, syscall.ENOSPC)
	}
	pages := f.d.live.write(p, off)
	f.d.remember(fileOp{kind: OpWrite, off: off, length: int64(len(p)), pages: pages})
	return nil
}

// Sync makes durable what was written when it was called, and nothing that was
// written while it ran: a caller must not count on the latter.
func (f *memFile) Sync() error {
	if err := f.enter("sync"); err != nil {
		return err
	}
	f.d.mu.RLock()
	upTo := f.d.settled + int64(len(f.d.unsynced))
	f.d.mu.RUnlock()
	f.leave()
	runtime.Gosched() // lets writes come in that this sync does not cover
	if err := f.enter("sync"); err != nil {
		return err
	}
	defer f.leave()
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.settle(upTo)
	return nil
}

// syncFailed does to unsynced changes what a kernel does when it cannot write
// them back: it forgets that they must be written. A later sync succeeds and does
// not cover them, except where their pages were written to again.
func (f *memFile) syncFailed() {
	if f.enter("sync") != nil {
		return
	}
	defer f.leave()
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for i := range f.d.unsynced {
		f.d.unsynced[i].lost = true
	}
}

func (f *memFile) Truncate(size int64) error {
	if err := f.enterRange("truncate", os.O_RDONLY, size, 0); err != nil {
		return err
	}
	defer f.leave()
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.m.used.Add(f.d.truncate(size))
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.enter("stat"); err != nil {
		return 0, err
	}
	defer f.leave()
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	return f.d.live.size, nil
}

func (f *memFile) Allocated() (int64, error) {
	if err := f.enter("stat"); err != nil {
		return 0, err
	}
	defer f.leave()
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	return int64(len(f.d.live.pages)) * pageSize, nil
}

func (f *memFile) PunchHole(off, length int64) error {
	if err := f.enterRange("punch hole", os.O_RDONLY, off, length); err != nil {
		return err
	}
	defer f.leave()
	if length == 0 {
		return nil
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	before := len(f.d.live.pages)
	f.d.live.zero(off, length)
	f.m.used.Add(int64(len(f.d.live.pages) - before))
	f.d.remember(fileOp{kind: OpPunch, off: off, length: length})
	return nil
}

// CloneRange copies. Ranges must be whole pages, except at the end of src.
func (f *memFile) CloneRange(src File, srcOff, dstOff, length int64) error {
	if err := f.enterRange("clone range", os.O_RDONLY, dstOff, length); err != nil {
		return err
	}
	defer f.leave()
	if length == 0 {
		return nil
	}
	from := unwrapMem(src)
	if from == nil || from.m != f.m || !f.m.reflink || from.closed.Load() || from.epoch != f.m.epoch {
		return fmt.Errorf("clone range into %s: %w", f.name, ErrUnsupported)
	}
	from.d.mu.RLock()
	size := from.d.live.size
	whole := length%pageSize == 0 || srcOff+length == size
	if srcOff < 0 || (srcOff|dstOff)%pageSize != 0 || !whole || length > size-srcOff {
		from.d.mu.RUnlock()
		return fmt.Errorf("clone range into %s: not whole pages of the source: %w", f.name, ErrUnsupported)
	}
	data := make([]byte, length)
	from.d.live.read(data, srcOff)
	from.d.mu.RUnlock()
	return f.write("clone range", data, dstOff)
}

// DropCache has nothing to drop.
func (f *memFile) DropCache(off, length int64) error {
	if err := f.enterRange("drop cache", -1, off, length); err != nil {
		return err
	}
	f.leave()
	return nil
}

func (f *memFile) Close() error {
	if err := f.enter("close"); err != nil {
		return err
	}
	defer f.leave()
	if f.closed.Swap(true) {
		return pathError("close", f.name, os.ErrClosed)
	}
	f.m.handles.Add(-1)
	if f.d.opens.Add(-1) == 0 && f.d.unlinked {
		f.d.mu.RLock()
		f.m.used.Add(-int64(len(f.d.live.pages)))
		f.d.mu.RUnlock()
	}
	return nil
}

// unwrapMem finds the Mem's file below wrappers that have Unwrap.
func unwrapMem(f File) *memFile {
	for {
		switch at := f.(type) {
		case *memFile:
			return at
		case interface{ Unwrap() File }:
			f = at.Unwrap()
		default:
			return nil
		}
	}
}
