package vfs

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	// directUnit is what offsets, lengths and memory of direct I/O are multiples of.
	directUnit = 4096
	// Bounce buffers come in two sizes: for requests of a few blocks and for long ones.
	smallBounce = 64 << 10
	largeBounce = 1 << 20
)

// Direct wraps a file system and reads and writes some of its files past the page
// cache. Any offset, length and memory will do: what is not aligned goes through
// buffers that are, and blocks of 4096 bytes that a write covers partly are read,
// completed and written whole.
//
// Where the file system below refuses, a file is used through the page cache. Files
// opened for writing only or for appending always are. It belongs below a Pool,
// which opens files anew.
type Direct struct {
	FS
	match        func(name string) bool
	refused      func(name string, err error)
	told         sync.Once
	small, large sync.Pool
}

// NewDirect wraps fs. match chooses the files by the name they are opened with.
// refused, which may be nil, is told once of a file that cannot bypass the cache.
func NewDirect(fs FS, match func(name string) bool, refused func(name string, err error)) *Direct {
	return &Direct{FS: fs, match: match, refused: refused,
		small: sync.Pool{New: func() any { return newBounce(smallBounce) }},
		large: sync.Pool{New: func() any { return newBounce(largeBounce) }}}
}

// OpenFile implements FS.
func (d *Direct) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil || flag&(os.O_WRONLY|os.O_APPEND) != 0 || !d.match(name) {
		return f, err
	}
	direct := &directFile{fs: d, File: f, name: name}
	if err := setDirect(f, true); err != nil {
		d.refuse(name, err)
		return f, nil
	}
	direct.on.Store(true)
	return direct, nil
}

func (d *Direct) refuse(name string, err error) {
	if d.refused != nil {
		d.told.Do(func() { d.refused(name, err) })
	}
}

// setDirect turns the page cache of the first file below f that can do so off or on.
func setDirect(f File, on bool) error {
	for {
		switch at := f.(type) {
		case interface{ SetDirect(on bool) error }:
			return at.SetDirect(on)
		case interface{ Unwrap() File }:
			f = at.Unwrap()
		default:
			return ErrUnsupported
		}
	}
}

// bounce is aligned memory.
type bounce struct{ b []byte }

func newBounce(size int) *bounce {
	b := make([]byte, size+directUnit)
	skip := 0
	if over := address(b) % directUnit; over != 0 {
		skip = directUnit - int(over)
	}
	return &bounce{b[skip : skip+size]}
}

// borrow answers a buffer for up to n bytes, and how to give it back.
func (d *Direct) borrow(n int64) (b []byte, release func()) {
	pool := &d.large
	if n <= smallBounce {
		pool = &d.small
	}
	lent := pool.Get().(*bounce)
	return lent.b[:min(n, int64(len(lent.b)))], func() { pool.Put(lent) }
}

func address(p []byte) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p))) //nolint:gosec // looked at, never turned back
}

func alignedRange(off, length int64) bool { return (off|length)%directUnit == 0 }

func alignedDown(n int64) int64 { return n &^ (directUnit - 1) }

func alignedUp(n int64) int64 { return alignedDown(n + directUnit - 1) }

// directFile is a file of a Direct. Lock order: blocks, end.
type directFile struct {
	File
	fs   *Direct
	name string
	on   atomic.Bool // false once the file system has refused

	// blocks is held exclusively to complete blocks: no other change may come between
	// the read and the write of one.
	blocks sync.RWMutex
	// end is held exclusively while the file is longer than it should be.
	end sync.RWMutex
}

// Unwrap is the file below, for CloneRange.
func (f *directFile) Unwrap() File { return f.File }

// fallBack goes on through the page cache when err says that the file system wants
// none of this. It tells whether to try again.
func (f *directFile) fallBack(err error) bool {
	if !errors.Is(err, syscall.EINVAL) || !f.on.Load() || setDirect(f.File, false) != nil {
		return false
	}
	f.on.Store(false)
	f.fs.refuse(f.name, err)
	return true
}

func (f *directFile) Size() (int64, error) {
	f.end.RLock()
	defer f.end.RUnlock()
	return f.File.Size()
}

func (f *directFile) Truncate(size int64) error {
	f.blocks.Lock()
	defer f.blocks.Unlock()
	f.end.Lock()
	defer f.end.Unlock()
	return f.File.Truncate(size)
}

func (f *directFile) PunchHole(off, length int64) error {
	f.blocks.RLock()
	defer f.blocks.RUnlock()
	return f.File.PunchHole(off, length)
}

func (f *directFile) CloneRange(src File, srcOff, dstOff, length int64) error {
	f.blocks.RLock()
	defer f.blocks.RUnlock()
	return f.File.CloneRange(src, srcOff, dstOff, length)
}

func (f *directFile) NextData(off int64) (int64, error) {
	f.end.RLock()
	defer f.end.RUnlock()
	return NextData(f.File, off)
}
