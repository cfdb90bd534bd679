package vfs

import (
	"errors"
	"io"
	"syscall"
)

func (f *directFile) ReadAt(p []byte, off int64) (int, error) {
	f.end.RLock()
	defer f.end.RUnlock()
	if len(p) == 0 || off < 0 || !f.on.Load() {
		return f.File.ReadAt(p, off)
	}
	if alignedRange(off, int64(len(p))) && address(p)%directUnit == 0 {
		return f.readBlocks(p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		first := alignedDown(at)
		b, release := f.fs.borrow(alignedUp(off+int64(len(p))) - first)
		n, err := f.readBlocks(b, first)
		skip := int(at - first)
		done += copy(p[done:], b[min(skip, n):n])
		short := n < len(b)
		release()
		if done == len(p) {
			return done, nil
		}
		if err == nil && short {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readBlocks reads what is aligned in every way.
func (f *directFile) readBlocks(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if !errors.Is(err, syscall.EINVAL) {
		return n, err
	}
	// Some file systems answer so at an end of the file that is not aligned, when they
	// are asked for the rest of a short read.
	size, serr := f.File.Size()
	if serr != nil {
		return n, serr
	}
	if off+int64(n) >= size {
		return n, io.EOF
	}
	if f.fallBack(err) || !f.on.Load() {
		return f.File.ReadAt(p, off)
	}
	return n, err
}

func (f *directFile) WriteAt(p []byte, off int64) (int, error) {
	length := int64(len(p))
	if length == 0 || off < 0 || !f.on.Load() {
		f.blocks.RLock()
		defer f.blocks.RUnlock()
		return f.File.WriteAt(p, off)
	}
	if !alignedRange(off, length) {
		return f.writeEdges(p, off)
	}
	f.blocks.RLock()
	defer f.blocks.RUnlock()
	if address(p)%directUnit == 0 {
		return f.writeBlocks(p, off)
	}
	return f.writeBounced(p, off, func([]byte, int64) error { return nil })
}

// writeBlocks writes what is aligned in every way.
func (f *directFile) writeBlocks(p []byte, off int64) (int, error) {
	done := 0
	for {
		n, err := f.File.WriteAt(p[done:], off+int64(done))
		if !errors.Is(err, syscall.EINVAL) {
			return done + n, err
		}
		// After a short write the rest may no longer be aligned: a disk that is full
		// says so to the next whole block.
		if whole := int(alignedDown(int64(n))); whole > 0 {
			done += whole
			continue
		}
		if f.fallBack(err) || !f.on.Load() {
			n, err = f.File.WriteAt(p[done:], off+int64(done))
		}
		return done + n, err
	}
}

// writeEdges writes a range with a block that it covers partly. Where that makes the
// file end with a whole block, it is cut to its size again.
func (f *directFile) writeEdges(p []byte, off int64) (n int, err error) {
	f.blocks.Lock()
	defer f.blocks.Unlock()
	size, err := f.File.Size()
	if err != nil {
		return 0, err
	}
	length := int64(len(p))
	first, end := alignedDown(off), alignedUp(off+length)
	complete := func(b []byte, at int64) error {
		if at == first && first != off {
			if err := f.readBlock(b[:directUnit], at); err != nil {
				return err
			}
		}
		tail := end - directUnit
		if at+int64(len(b)) == end && off+length != end && (tail != first || first == off) {
			return f.readBlock(b[tail-at:], tail)
		}
		return nil
	}
	if end <= size {
		return f.writeBounced(p, off, complete)
	}
	f.end.Lock()
	defer f.end.Unlock()
	n, err = f.writeBounced(p, off, complete)
	if n > 0 {
		size = max(size, off+int64(n))
	}
	return n, errors.Join(err, f.File.Truncate(size))
}

// readBlock reads one block; what is beyond the end of the file is zero.
func (f *directFile) readBlock(b []byte, at int64) error {
	n, err := f.readBlocks(b, at)
	clear(b[n:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// writeBounced writes p at off from aligned buffers. complete fills in what p leaves
// out of the first and the last block, before p is laid over it.
func (f *directFile) writeBounced(p []byte, off int64, complete func(b []byte, at int64) error) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		first := alignedDown(at)
		b, release := f.fs.borrow(alignedUp(off+int64(len(p))) - first)
		err := complete(b, first)
		skip, n := int(at-first), 0
		if err == nil {
			put := copy(b[skip:], p[done:])
			n, err = f.writeBlocks(b, first)
			n = min(max(n-skip, 0), put)
		}
		release()
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
