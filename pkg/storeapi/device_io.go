package storeapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// do runs one request on the connection, after the range was found to lie within the
// image; when the image has another size by now, on a new connection that knows it.
func (d *device) do(op string, off, length int64, mutate bool, request func(*nbd.Client) error) error {
	if mutate && d.readOnly {
		if _, err := d.current(); err != nil {
			return d.fail(op, off, length, err)
		}
		return d.fail(op, off, length, store.ErrReadOnly)
	}
	used, err := d.try(off, length, request)
	var errno nbd.Errno
	if errors.Is(err, store.ErrRange) || errors.As(err, &errno) && (errno == nbd.EINVAL || errno == nbd.ENOSPC) {
		now, rerr := d.refresh()
		switch {
		case rerr != nil:
			err = errors.Join(err, rerr)
		case now != used: // replaced here, or by another request meanwhile
			_, err = d.try(off, length, request)
		}
	}
	return d.fail(op, off, length, err)
}

// try runs a request and tells on which connection.
func (d *device) try(off, length int64, request func(*nbd.Client) error) (*nbd.Client, error) {
	d.io.RLock()
	defer d.io.RUnlock()
	conn, err := d.current()
	if err != nil {
		return nil, err
	}
	if off < 0 || length < 0 || off > conn.Size() || length > conn.Size()-off {
		return conn, fmt.Errorf("the image has %d bytes: %w", conn.Size(), store.ErrRange)
	}
	if length == 0 {
		return conn, nil
	}
	return conn, request(conn)
}

// refresh replaces the connection if the image's size is no longer the one that was
// negotiated, and returns the one to use. Writes answered on the old connection are covered by a flush on the
// new one: both end in one device of the store.
func (d *device) refresh() (*nbd.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	info, err := d.c.Stat(ctx, d.id)
	if err != nil {
		return nil, err
	}
	d.io.Lock()
	defer d.io.Unlock()
	old, err := d.current()
	if err != nil {
		return nil, err
	}
	if old.Size() == info.Size {
		return old, nil
	}
	conn, err := d.c.connect(ctx, info)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.last = info
	if d.closed {
		old = conn
	} else {
		d.conn = conn
	}
	d.mu.Unlock()
	return conn, old.Close()
}

// align widens a range to whole blocks of the connection.
func align(conn *nbd.Client, off, length int64) (from, to int64) {
	b := max(int64(conn.BlockSize()), 1)
	return off / b * b, (off + length + b - 1) / b * b
}

func aligned(conn *nbd.Client, off, length int64) bool {
	from, to := align(conn, off, length)
	return from == off && to == off+length
}

// ReadAt implements store.Device.
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	err := d.do("read", off, int64(len(p)), false, func(conn *nbd.Client) error {
		if aligned(conn, off, int64(len(p))) {
			_, err := conn.ReadAt(p, off)
			return err
		}
		from, to := align(conn, off, int64(len(p)))
		wide := make([]byte, to-from)
		if _, err := conn.ReadAt(wide, from); err != nil {
			return err
		}
		copy(p, wide[off-from:])
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt implements store.Device.
func (d *device) WriteAt(p []byte, off int64) (int, error) {
	err := d.do("write", off, int64(len(p)), true, func(conn *nbd.Client) error {
		return d.write(conn, p, off)
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *device) write(conn *nbd.Client, p []byte, off int64) error {
	length := int64(len(p))
	if aligned(conn, off, length) {
		d.edges.RLock()
		defer d.edges.RUnlock()
		_, err := conn.WriteAt(p, off)
		return err
	}
	d.edges.Lock()
	defer d.edges.Unlock()
	from, to := align(conn, off, length)
	wide := make([]byte, to-from)
	b := int64(conn.BlockSize())
	if _, err := conn.ReadAt(wide[:b], from); err != nil {
		return err
	}
	if to-from > b {
		if _, err := conn.ReadAt(wide[to-from-b:], to-b); err != nil {
			return err
		}
	}
	copy(wide[off-from:], p)
	_, err := conn.WriteAt(wide, from)
	return err
}

// Zero implements store.Device.
func (d *device) Zero(off, length int64, allocate bool) error {
	return d.do("zero", off, length, true, func(conn *nbd.Client) error {
		from, to := align(conn, off, length)
		b := int64(conn.BlockSize())
		if from < off {
			head := min(from+b, off+length)
			if err := d.write(conn, make([]byte, head-off), off); err != nil {
				return err
			}
			from = from + b
		}
		if to > off+length && to > from {
			tail := to - b
			if err := d.write(conn, make([]byte, off+length-tail), tail); err != nil {
				return err
			}
			to = tail
		}
		if from >= to {
			return nil
		}
		d.edges.RLock()
		defer d.edges.RUnlock()
		return conn.Zero(from, to-from, allocate)
	})
}

// Discard implements store.Device.
func (d *device) Discard(off, length int64) error {
	return d.do("discard", off, length, true, func(conn *nbd.Client) error {
		from := (off + store.Block - 1) / store.Block * store.Block
		to := (off + length) / store.Block * store.Block
		if from >= to {
			return nil
		}
		d.edges.RLock()
		defer d.edges.RUnlock()
		return conn.Trim(from, to-from)
	})
}
