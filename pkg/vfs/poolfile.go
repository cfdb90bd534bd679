package vfs

import (
	"container/list"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// shutBias is in poolFile.users while the file must not be used.
const shutBias = -1 << 40

// poolFile is a file of a Pool. Its use costs a few atomic operations: users is
// raised before and lowered after, and while it is negative the file has to be
// opened first.
type poolFile struct {
	pool *Pool
	flag int

	users  atomic.Int64  // operations running, plus shutBias when not open
	writes atomic.Uint64 // rises after each change, before its user is gone
	synced atomic.Uint64 // what writes was before a sync that succeeded
	used   atomic.Bool   // since the pool looked last
	gone   atomic.Bool   // the name is no longer this file's

	name string        // changed with pool.moves and pool.mu, read with either
	at   *list.Element // guarded by pool.mu; nil when not open

	mu      sync.Mutex // before pool.mu
	file    File       // changed with mu and users negative; nil when not open
	closed  bool
	drained chan struct{} // Close waits for the last user
}

// acquire answers the open file; release must follow.
func (f *poolFile) acquire(op string) (File, error) {
	if f.users.Add(1) > 0 {
		if !f.used.Load() {
			f.used.Store(true)
		}
		return f.file, nil
	}
	f.release()
	return f.reopen(op)
}

func (f *poolFile) release() {
	switch f.users.Add(-1) {
	case shutBias:
		f.lastUser()
	case 0:
		if f.gone.Load() {
			f.retire()
		}
	}
}

// retire closes a file without a name that has become idle.
func (f *poolFile) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut() {
		f.pool.detach(f)
		f.file.Close()
		f.file = nil
	}
}

// lastUser tells a waiting Close that nobody uses the file any more. It may be
// called more than once.
func (f *poolFile) lastUser() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drained != nil {
		close(f.drained)
		f.drained = nil
	}
}

// reopen is acquire for a file that the pool has closed.
func (f *poolFile) reopen(op string) (File, error) {
	f.pool.moves.RLock()
	defer f.pool.moves.RUnlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, pathError(op, f.name, os.ErrClosed)
	case f.file != nil: // another user was faster
		f.users.Add(1)
		return f.file, nil
	case f.gone.Load():
		return nil, pathError(op, f.name, fs.ErrNotExist)
	}
	f.pool.reserve()
	file, err := f.pool.fs.OpenFile(f.name, f.flag, 0)
	if err != nil {
		f.pool.unreserve()
		return nil, err
	}
	f.file = file
	f.used.Store(false) // one use earns the place at the back of the queue and no more
	f.pool.mu.Lock()
	f.at = f.pool.idle.PushBack(f)
	f.pool.mu.Unlock()
	f.users.Add(1 - shutBias)
	return file, nil
}

// shut makes an idle file with nothing to sync unusable, so that it can be closed.
// The caller holds mu.
func (f *poolFile) shut() bool {
	if f.file == nil || f.closed || !f.users.CompareAndSwap(0, shutBias) {
		return false
	}
	// Nobody can write now. Of a file without a name, no write needs to last.
	if f.writes.Load() != f.synced.Load() && !f.gone.Load() {
		f.users.Add(-shutBias)
		return false
	}
	return true
}

// change runs an operation that only a sync makes durable.
func (f *poolFile) change(op string, run func(File) error) error {
	file, err := f.acquire(op)
	if err != nil {
		return err
	}
	defer f.release()
	defer f.writes.Add(1)
	return run(file)
}

// use runs an operation that changes nothing.
func (f *poolFile) use(op string, run func(File) error) error {
	file, err := f.acquire(op)
	if err != nil {
		return err
	}
	defer f.release()
	return run(file)
}

func (f *poolFile) ReadAt(p []byte, off int64) (int, error) {
	file, err := f.acquire("read")
	if err != nil {
		return 0, err
	}
	n, err := file.ReadAt(p, off)
	f.release()
	return n, err
}

func (f *poolFile) WriteAt(p []byte, off int64) (int, error) {
	file, err := f.acquire("write")
	if err != nil {
		return 0, err
	}
	n, err := file.WriteAt(p, off)
	f.writes.Add(1)
	f.release()
	return n, err
}

func (f *poolFile) path() string {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return f.name
}

// Sync lets the pool close the file again, unless it was written meanwhile.
func (f *poolFile) Sync() error {
	err := f.use("sync", func(file File) error {
		covered := f.writes.Load()
		if err := file.Sync(); err != nil {
			return err
		}
		for {
			known := f.synced.Load()
			if known >= covered || f.synced.CompareAndSwap(known, covered) {
				return nil
			}
		}
	})
	if err == nil && f.pool.over.Load() {
		f.pool.trim()
	}
	return err
}

func (f *poolFile) Truncate(size int64) error {
	return f.change("truncate", func(file File) error { return file.Truncate(size) })
}

func (f *poolFile) Size() (size int64, err error) {
	err = f.use("stat", func(file File) error {
		size, err = file.Size()
		return err
	})
	return size, err
}

func (f *poolFile) Allocated() (bytes int64, err error) {
	err = f.use("stat", func(file File) error {
		bytes, err = file.Allocated()
		return err
	})
	return bytes, err
}

func (f *poolFile) PunchHole(off, length int64) error {
	return f.change("punch hole", func(file File) error { return file.PunchHole(off, length) })
}

// CloneRange opens a source of the same pool, too.
func (f *poolFile) CloneRange(src File, srcOff, dstOff, length int64) error {
	return f.change("clone range", func(file File) error {
		from, ok := src.(*poolFile)
		if !ok {
			return file.CloneRange(src, srcOff, dstOff, length)
		}
		return from.use("clone range", func(src File) error {
			return file.CloneRange(src, srcOff, dstOff, length)
		})
	})
}

func (f *poolFile) DropCache(off, length int64) error {
	return f.use("drop cache", func(file File) error { return file.DropCache(off, length) })
}

// Close waits for operations in flight.
func (f *poolFile) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return pathError("close", f.path(), os.ErrClosed)
	}
	f.closed = true
	file := f.file
	if file != nil {
		drained := make(chan struct{})
		f.drained = drained
		if f.users.Add(shutBias) == shutBias {
			f.drained = nil
		} else {
			f.mu.Unlock()
			<-drained
			f.mu.Lock()
		}
		f.pool.detach(f)
		f.file = nil
	}
	f.mu.Unlock()
	f.pool.forget(f)
	if file == nil {
		return nil
	}
	return file.Close()
}
