// Package vfs is the file system that the embedded store stands on, as interfaces,
// so that every operation can be made to fail and every crash can be staged.
package vfs

import (
	"errors"
	"io"
	"os"
)

// ErrUnsupported is answered by CloneRange and PunchHole where the file system
// below cannot do it.
var ErrUnsupported = errors.New("not supported by this file system")

// FS is a file system. Paths are slash-separated. All methods may be called
// concurrently.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// Remove deletes a file or an empty directory. Not durable before SyncDir.
	Remove(name string) error
	// Rename is atomic. Not durable before SyncDir of both directories.
	Rename(from, to string) error
	// MkdirAll is os.MkdirAll.
	MkdirAll(name string, perm os.FileMode) error
	// List returns the names in a directory, sorted.
	List(name string) ([]string, error)
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(name string) error
	// Space tells total and available bytes of the file system that holds name.
	Space(name string) (total, free int64, err error)
	// CacheID identifies the life of the page cache that holds name: it changes
	// when unsynced writes may have been lost (new boot, new instance of the
	// mounted file system), and not when a process ends.
	CacheID(name string) (string, error)
}

// File is an open file. All methods may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes the file's data and size durable (fdatasync). After an error
	// nothing is known of the unsynced data.
	Sync() error
	// Truncate sets the size; growing leaves a hole.
	Truncate(size int64) error
	// Size is the file's size in bytes.
	Size() (int64, error)
	// Allocated is the space the file takes on disk, in bytes.
	Allocated() (int64, error)
	// PunchHole deallocates a range, which then reads as zero. The size stays.
	PunchHole(off, length int64) error
	// CloneRange shares the extents of src (reflink). ErrUnsupported if it cannot.
	CloneRange(src File, srcOff, dstOff, length int64) error
	// DropCache tells the system that the range will not be read again soon.
	DropCache(off, length int64) error
	Close() error
}
