package vfs

import (
	"io"
)

// DataFinder is a File that can tell where nothing was ever written.
type DataFinder interface {
	// NextData returns the lowest offset at or after off that may hold data, and
	// io.EOF if there is none up to the end of the file. What it passes over
	// reads as zero; it may err towards finding too much.
	NextData(off int64) (int64, error)
}

// NextData asks f, or the file it wraps; a file that cannot tell may hold data
// everywhere.
func NextData(f File, off int64) (int64, error) {
	if d, ok := f.(DataFinder); ok {
		return d.NextData(off)
	}
	size, err := f.Size()
	if err == nil && off >= size {
		err = io.EOF
	}
	return off, err
}

func (f *faultyFile) NextData(off int64) (int64, error) { return NextData(f.inner, off) }

func (f *poolFile) NextData(off int64) (next int64, err error) {
	err = f.use("find data", func(file File) error {
		next, err = NextData(file, off)
		return err
	})
	return next, err
}

func (f *memFile) NextData(off int64) (int64, error) {
	if err := f.enter("find data"); err != nil {
		return 0, err
	}
	defer f.leave()
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	live := &f.d.live
	if live.pages[off/pageSize] != nil && off < live.size {
		return off, nil
	}
	next := live.size
	for i := range live.pages {
		if at := i * pageSize; at >= off {
			next = min(next, at)
		}
	}
	if next >= live.size {
		return 0, io.EOF
	}
	return next, nil
}
