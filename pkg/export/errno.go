package export

import (
	"errors"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// errnos is what a client is told of each kind of error, first match first.
func errnos() []struct {
	is    error
	errno nbd.Errno
} {
	return []struct {
		is    error
		errno nbd.Errno
	}{
		{store.ErrNoSpace, nbd.ENOSPC},
		{store.ErrReadOnly, nbd.EPERM},
		{store.ErrFenced, nbd.EPERM},
		{store.ErrInUse, nbd.EPERM},
		{store.ErrRange, nbd.EINVAL},
		{store.ErrInvalid, nbd.EINVAL},
		{store.ErrConflict, nbd.EINVAL},
		{store.ErrUnsupported, nbd.ENOTSUP},
		{store.ErrClosed, nbd.ESHUTDOWN},
		{store.ErrNotFound, nbd.EIO},
		{store.ErrBusy, nbd.EIO},
		{store.ErrCorrupt, nbd.EIO},
		{store.ErrUnavailable, nbd.EIO},
	}
}

// numbered is an error of a device with the number its client gets.
type numbered struct {
	error
	errno nbd.Errno
}

// Errno is found by pkg/nbd.
func (n numbered) Errno() nbd.Errno { return n.errno }

// Unwrap returns the device's error.
func (n numbered) Unwrap() error { return n.error }

// number classifies an error of a device. Unknown ones are EIO.
func number(err error) error {
	if err == nil {
		return nil
	}
	for _, row := range errnos() {
		if errors.Is(err, row.is) {
			return numbered{err, row.errno}
		}
	}
	return numbered{err, nbd.EIO}
}
