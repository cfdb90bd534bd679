package vfs

import (
	"fmt"
	"os"
	"syscall"
)

// Allocator is a File that can take space on the disk before it is written.
type Allocator interface {
	// Allocate takes space for a range, also beyond the end. Content and size stay; it is
	// not durable before Sync. ErrUnsupported where the file system cannot. After an
	// error a part may be allocated.
	Allocate(off, length int64) error
}

// Allocate asks f; ErrUnsupported if it is no Allocator.
func Allocate(f File, off, length int64) error {
	if a, ok := f.(Allocator); ok {
		return a.Allocate(off, length)
	}
	return fmt.Errorf("allocate: %w", ErrUnsupported)
}

func (f *faultyFile) Allocate(off, length int64) error {
	return f.do(OpAllocate, off, length, func() error { return Allocate(f.inner, off, length) })
}

func (f *poolFile) Allocate(off, length int64) error {
	return f.change("allocate", func(file File) error { return Allocate(file, off, length) })
}

func (f *directFile) Allocate(off, length int64) error { return Allocate(f.File, off, length) }

// Allocate fills holes with pages that read as zero. A power cut frees them again.
func (f *memFile) Allocate(off, length int64) error {
	if err := f.enterRange("allocate", os.O_RDONLY, off, length); err != nil {
		return err
	}
	defer f.leave()
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	live := &f.d.live
	more := live.missing(off, length)
	if f.m.used.Add(more)*pageSize > f.m.capacity && more > 0 {
		f.m.used.Add(-more)
		return pathError("allocate", f.name, syscall.ENOSPC)
	}
	blank := new(page)
	for i := off / pageSize; i*pageSize < off+length; i++ {
		if live.pages[i] == nil {
			live.pages[i] = blank
		}
	}
	return nil
}
