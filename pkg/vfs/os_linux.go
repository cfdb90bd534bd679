package vfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// OS is the file system of the machine. Files it opens are closed on exec.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &osFile{f: f, conn: conn}, nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) MkdirAll(name string, perm os.FileMode) error { return os.MkdirAll(name, perm) }

func (osFS) List(name string) ([]string, error) {
	d, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (osFS) SyncDir(name string) error {
	d, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	// A directory has no data worth an fdatasync: its names are metadata.
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (osFS) Space(name string) (total, free int64, err error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return int64(st.Blocks) * unit, int64(st.Bavail) * unit, nil
}

// osFile keeps the descriptor inside an os.File, whose reference count lets Close
// run beside other calls without ever handing them a descriptor used anew.
type osFile struct {
	f    *os.File
	conn syscall.RawConn
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) { return o.f.ReadAt(p, off) }

func (o *osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }

func (o *osFile) Sync() error { return o.control("fdatasync", unix.Fdatasync) }

func (o *osFile) Truncate(size int64) error { return o.f.Truncate(size) }

func (o *osFile) Close() error { return o.f.Close() }

func (o *osFile) Size() (int64, error) {
	st, err := o.stat()
	return st.Size, err
}

func (o *osFile) Allocated() (int64, error) {
	st, err := o.stat()
	return st.Blocks * 512, err // st_blocks is in units of 512, whatever the file system
}

func (o *osFile) stat() (st unix.Stat_t, err error) {
	err = o.control("stat", func(fd int) error { return unix.Fstat(fd, &st) })
	return st, err
}

func (o *osFile) PunchHole(off, length int64) error {
	if length == 0 {
		return nil
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := o.control("punch hole", func(fd int) error { return unix.Fallocate(fd, mode, off, length) })
	return unsupported(err, unix.EOPNOTSUPP, unix.ENOSYS)
}

func (o *osFile) Allocate(off, length int64) error {
	if length == 0 {
		return nil
	}
	err := o.control("allocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
	return unsupported(err, unix.EOPNOTSUPP, unix.ENOSYS)
}

func (o *osFile) CloneRange(src File, srcOff, dstOff, length int64) error {
	if length == 0 {
		return nil
	}
	from := unwrapOS(src)
	if from == nil {
		return fmt.Errorf("clone range into %s from a file of another kind: %w", o.f.Name(), ErrUnsupported)
	}
	err := from.control("clone range", func(srcFD int) error {
		return o.control("clone range", func(fd int) error {
			return unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{
				Src_fd:      int64(srcFD),
				Src_offset:  uint64(srcOff),
				Src_length:  uint64(length),
				Dest_offset: uint64(dstOff),
			})
		})
	})
	// EINVAL is what the kernel says of ranges that are not whole blocks.
	return unsupported(err, unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS)
}

func (o *osFile) DropCache(off, length int64) error {
	if length == 0 {
		return nil // to the kernel, zero means to the end of the file
	}
	return o.control("drop cache", func(fd int) error {
		return unix.Fadvise(fd, off, length, unix.FADV_DONTNEED)
	})
}

// control runs call with the descriptor, which stays valid for that long.
func (o *osFile) control(op string, call func(fd int) error) error {
	var err error
	if o.conn.Control(func(fd uintptr) { err = retry(func() error { return call(int(fd)) }) }) != nil {
		err = os.ErrClosed // the only reason for Control to fail
	}
	var inner *os.PathError
	if err == nil || errors.As(err, &inner) {
		return err
	}
	return &os.PathError{Op: op, Path: o.f.Name(), Err: err}
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// unsupported adds ErrUnsupported to err when its cause is one of the numbers.
func unsupported(err error, numbers ...syscall.Errno) error {
	for _, n := range numbers {
		if errors.Is(err, n) {
			return fmt.Errorf("%w: %w", err, ErrUnsupported)
		}
	}
	return err
}

// unwrapOS finds the file of the machine below wrappers that have Unwrap.
func unwrapOS(f File) *osFile {
	for {
		switch at := f.(type) {
		case *osFile:
			return at
		case interface{ Unwrap() File }:
			f = at.Unwrap()
		default:
			return nil
		}
	}
}

// SetDirect makes reads and writes bypass the page cache, or not. EINVAL where the file
// system cannot.
func (o *osFile) SetDirect(on bool) error {
	return o.control("set direct I/O", func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
		return err
	})
}
