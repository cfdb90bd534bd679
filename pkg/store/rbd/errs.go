//go:build ceph

package rbd

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/strata-csi/strata/pkg/store"
)

// classify adds the store's sentinel to an error of the cluster.
func classify(err error) error {
	if err == nil {
		return nil
	}
	for _, s := range store.Sentinels() {
		if errors.Is(err, s) {
			return err
		}
	}
	is := sentinel(errno(err))
	if is == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, is)
}

func sentinel(n syscall.Errno) error {
	switch n {
	case syscall.ENOSPC, syscall.EDQUOT:
		return store.ErrNoSpace
	case syscall.EROFS:
		return store.ErrReadOnly
	case syscall.EBUSY, syscall.EAGAIN, syscall.ERESTART:
		return store.ErrBusy
	case syscall.ESHUTDOWN, syscall.ETIMEDOUT, syscall.ENOTCONN:
		return store.ErrUnavailable
	}
	return nil
}

// gone tells whether the cluster says that something does not exist.
func gone(err error) bool { return errno(err) == syscall.ENOENT }
