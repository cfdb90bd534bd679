package transfer

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is a regular file or a block device as Source and Sink.
type File struct {
	f *os.File
	// blockDevice: holes cannot be asked for, and zeroing has to be.
	blockDevice bool
	size        int64
}

// ErrStream: the file has no size and no offsets; use FromStream or ToStream.
var ErrStream = errors.New("not seekable")

// OpenSource opens a regular file or a block device for reading. For anything else
// (pipe, socket, terminal, character device) it returns ErrStream.
func OpenSource(path string) (*File, error) {
	// Opening a FIFO would wait for its writer, so look first.
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if st.IsDir() {
		return nil, &os.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	} else if !seekable(st) {
		return nil, fmt.Errorf("%s: %w", path, ErrStream)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return newFile(f)
}

// OpenDevice opens an existing block device for writing.
func OpenDevice(path string) (*File, error) {
	// O_EXCL on a block device refuses one that is mounted or otherwise held.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is mounted or in use by the kernel: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	return newFile(f)
}

// NewSparse makes f, an empty regular file, a blank sink of size bytes.
func NewSparse(f *os.File, size int64) (*File, error) {
	if err := f.Truncate(size); err != nil {
		return nil, fmt.Errorf("set the size of %s: %w", f.Name(), err)
	}
	return &File{f: f, size: size}, nil
}

func seekable(st os.FileInfo) bool {
	mode := st.Mode()
	return mode.IsRegular() || mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
}

func newFile(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !seekable(st) {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), ErrStream), f.Close())
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size of %s: %w", f.Name(), err), f.Close())
	}
	return &File{f: f, blockDevice: !st.Mode().IsRegular(), size: size}, nil
}

// Size is the size when it was opened, in bytes.
func (f *File) Size() int64 { return f.size }

// ReadAt implements Source.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// WriteAt implements Sink.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }

// Flush implements Sink: the bytes and the file's size are durable.
func (f *File) Flush() error { return f.f.Sync() }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Extents implements Source by SEEK_DATA and SEEK_HOLE. Where the file system does
// not know holes, all is data.
func (f *File) Extents(off, length int64, fn func(off, length int64, zero bool) bool) error {
	end := off + length
	if f.blockDevice {
		fn(off, length, false)
		return nil
	}
	for off < end {
		data, err := unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = end // a hole up to the end of the file
		case errors.Is(err, unix.EINVAL):
			fn(off, end-off, false)
			return nil
		case err != nil:
			return fmt.Errorf("find data in %s at %d: %w", f.f.Name(), off, err)
		}
		if data = min(data, end); data > off && !fn(off, data-off, true) {
			return nil
		}
		if off = data; off >= end {
			return nil
		}
		hole, err := unix.Seek(int(f.f.Fd()), off, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find a hole in %s at %d: %w", f.f.Name(), off, err)
		}
		if hole = min(hole, end); !fn(off, hole-off, false) {
			return nil
		}
		off = hole
	}
	return nil
}

// Zero implements Sink. On a block device it asks for zeros, with space given back
// where the device can, and writes them where it cannot.
func (f *File) Zero(off, length int64) error {
	const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := unix.Fallocate(int(f.f.Fd()), how, off, length)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	zeros := make([]byte, min(length, Piece))
	for length > 0 {
		n := min(length, Piece)
		if _, err := f.f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}
