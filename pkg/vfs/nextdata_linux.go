package vfs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// NextData moves the descriptor's own offset, which nothing here uses.
func (o *osFile) NextData(off int64) (next int64, err error) {
	err = o.control("find data", func(fd int) (err error) {
		next, err = unix.Seek(fd, off, unix.SEEK_DATA)
		return err
	})
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	if errors.Is(err, unix.EINVAL) { // a file system that does not know of holes
		return off, nil
	}
	return next, err
}
