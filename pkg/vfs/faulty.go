package vfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// ErrCrashed is the answer of every operation of a Faulty after its crash. An
// injector that answers it crashes the Faulty.
var ErrCrashed = errors.New("the process has crashed")

// Faulty asks an injector before each operation and fails those that it says; a
// failed operation changes nothing. A failed Sync of a file of a Mem loses what
// it covered, as kernels do: later syncs succeed without making it durable.
//
// It stands for one process: after a crash nothing that was built on it can
// change the disk, by open files or by path. Close still releases what is below.
type Faulty struct {
	fs     FS
	inject Injector

	mu      sync.RWMutex // shared by operations, exclusive to end them all
	crashed bool
}

// NewFaulty wraps fs. A nil inject fails nothing.
func NewFaulty(fs FS, inject func(Op) error) *Faulty {
	if inject == nil {
		inject = Always(nil)
	}
	return &Faulty{fs: fs, inject: inject}
}

// Crash ends the process: it waits for operations in flight, and every later one
// fails with ErrCrashed. An operation held up inside the injector counts as later.
func (f *Faulty) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed = true
}

// Crashed tells whether the process has crashed.
func (f *Faulty) Crashed() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.crashed
}

// do runs the operation unless it is to fail.
func (f *Faulty) do(op Op, run func() error) error {
	err := f.inject(op)
	if errors.Is(err, ErrCrashed) {
		f.Crash()
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.crashed {
		err = ErrCrashed
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return run()
}

// OpenFile is OpCreate or OpOpen to the injector.
func (f *Faulty) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	kind := OpOpen
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		kind = OpCreate
	}
	file := &faultyFile{fs: f, name: name}
	err := f.do(Op{Kind: kind, Path: name}, func() (err error) {
		file.inner, err = f.fs.OpenFile(name, flag, perm)
		return err
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Remove implements FS.
func (f *Faulty) Remove(name string) error {
	return f.do(Op{Kind: OpRemove, Path: name}, func() error { return f.fs.Remove(name) })
}

// Rename implements FS.
func (f *Faulty) Rename(from, to string) error {
	return f.do(Op{Kind: OpRename, Path: from, To: to}, func() error { return f.fs.Rename(from, to) })
}

// MkdirAll implements FS.
func (f *Faulty) MkdirAll(name string, perm os.FileMode) error {
	return f.do(Op{Kind: OpMkdir, Path: name}, func() error { return f.fs.MkdirAll(name, perm) })
}

// List implements FS.
func (f *Faulty) List(name string) (names []string, err error) {
	err = f.do(Op{Kind: OpList, Path: name}, func() (err error) {
		names, err = f.fs.List(name)
		return err
	})
	return names, err
}

// SyncDir implements FS.
func (f *Faulty) SyncDir(name string) error {
	return f.do(Op{Kind: OpSyncDir, Path: name}, func() error { return f.fs.SyncDir(name) })
}

// Space implements FS.
func (f *Faulty) Space(name string) (total, free int64, err error) {
	err = f.do(Op{Kind: OpSpace, Path: name}, func() (err error) {
		total, free, err = f.fs.Space(name)
		return err
	})
	return total, free, err
}

// CacheID implements FS.
func (f *Faulty) CacheID(name string) (id string, err error) {
	err = f.do(Op{Kind: OpCacheID, Path: name}, func() (err error) {
		id, err = f.fs.CacheID(name)
		return err
	})
	return id, err
}

var _ FS = (*Faulty)(nil)
