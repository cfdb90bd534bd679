//go:build ceph

package rbd

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/rangelock"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

var _ store.Device = (*device)(nil)

// device is one user's hold of a handle.
type device struct {
	s      *Store
	h      *handle
	closed atomic.Bool
}

// piece bounds what is asked of the library at once, in bytes: it answers with an int.
const piece = 1 << 30

// Open gives access to the bytes of an image or a snapshot.
func (s *Store) Open(ctx context.Context, id store.ID) (store.Device, error) {
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("open %q: %w", id, err)
	}
	defer s.end()
	h, err := s.hold(ctx, id, true, func(st *meta.State) (meta.Object, error) { return st.Any(id) })
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", id, err)
	}
	return &device{s: s, h: h}, nil
}

// enter checks a request and takes a slot for it.
func (d *device) enter(off, length int64, mutate bool) error {
	if d.closed.Load() {
		return store.ErrClosed
	}
	if mutate && d.h.obj.Snap != nil {
		return fmt.Errorf("snapshot: %w", store.ErrReadOnly)
	}
	if err := d.h.enter(); err != nil {
		return err
	}
	if err := d.h.inside(off, length); err != nil {
		d.h.leave()
		return err
	}
	d.s.slots <- struct{}{}
	return nil
}

func (h *handle) inside(off, length int64) error {
	if size := h.size.Load(); off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%d bytes at %d of %d: %w", length, off, size, store.ErrRange)
	}
	return nil
}

// alone takes a range that is to be changed; a range that nobody can take is refused.
func (d *device) alone(off, length int64) (rangelock.Guard, error) {
	if d.closed.Load() {
		return rangelock.Guard{}, store.ErrClosed
	}
	if err := d.h.inside(off, length); err != nil {
		return rangelock.Guard{}, err
	}
	// Before the slot: who waits for a range must not have one.
	return d.h.locks.Lock(off, length), nil
}

func (d *device) leave() {
	<-d.s.slots
	d.h.leave()
}

func (d *device) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if d.s.closing.Load() {
		return fmt.Errorf("%s %s: %w: %w", op, d.h.obj.Ref(), err, store.ErrClosed)
	}
	return fmt.Errorf("%s %s: %w", op, d.h.obj.Ref(), classify(err))
}

// ReadAt fills p from off.
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if err := d.enter(off, int64(len(p)), false); err != nil {
		return 0, d.fail("read", err)
	}
	defer d.leave()
	n, err := d.h.read(p, off)
	return n, d.fail("read", err)
}

func (h *handle) read(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		n, err := h.img.ReadAt(p[done:min(len(p), done+piece)], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// WriteAt writes p at off.
func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, d.idle("write", off)
	}
	g, err := d.alone(off, int64(len(p)))
	if err != nil {
		return 0, d.fail("write", err)
	}
	defer g.Unlock()
	if err := d.enter(off, int64(len(p)), true); err != nil {
		return 0, d.fail("write", err)
	}
	defer d.leave()
	for done := 0; done < len(p); {
		n, err := d.h.img.WriteAt(p[done:min(len(p), done+piece)], off+int64(done))
		if err != nil {
			return done, d.fail("write", err)
		}
		done += n
	}
	return len(p), nil
}

// idle checks a request that changes nothing.
func (d *device) idle(op string, off int64) error {
	if err := d.enter(off, 0, true); err != nil {
		return d.fail(op, err)
	}
	d.leave()
	return nil
}

// Zero makes the range read as zero.
func (d *device) Zero(off, length int64, allocate bool) error {
	if length == 0 {
		return d.idle("zero", off)
	}
	g, err := d.alone(off, length)
	if err != nil {
		return d.fail("zero", err)
	}
	defer g.Unlock()
	if err := d.enter(off, length, true); err != nil {
		return d.fail("zero", err)
	}
	defer d.leave()
	if allocate {
		return d.fail("zero", d.h.writeZeros(off, length))
	}
	return d.fail("zero", d.h.discard(off, length))
}

// Discard makes the whole blocks in the range read as zero.
func (d *device) Discard(off, length int64) error {
	if err := d.h.inside(off, length); err != nil {
		return d.fail("discard", err)
	}
	first, last := (off+store.Block-1)/store.Block*store.Block, (off+length)/store.Block*store.Block
	if first >= last {
		return d.idle("discard", off)
	}
	g, err := d.alone(first, last-first)
	if err != nil {
		return d.fail("discard", err)
	}
	defer g.Unlock()
	if err := d.enter(first, last-first, true); err != nil {
		return d.fail("discard", err)
	}
	defer d.leave()
	return d.fail("discard", d.h.discard(first, last-first))
}

// discard makes exactly the range read as zero: the library is told to leave no part out.
func (h *handle) discard(off, length int64) error {
	for length > 0 {
		n := min(length, piece)
		if _, err := h.img.Discard(uint64(off), uint64(n)); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// writeZeros keeps the space.
func (h *handle) writeZeros(off, length int64) error {
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := h.img.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// Flush returns when every write answered before is durable, which it was then.
func (d *device) Flush() error {
	if err := d.enter(0, 0, false); err != nil {
		return d.fail("flush", err)
	}
	defer d.leave()
	if d.h.obj.Snap != nil {
		return nil
	}
	return d.fail("flush", d.h.img.Flush())
}

// Info describes the object as this process knows it: at once what it has changed itself,
// and within a second or so what others have. It is asked for often, so it does not ask
// the cluster.
func (d *device) Info() store.Info {
	var info store.Info
	_ = d.s.cat.Peek(func(st *meta.State) error {
		obj, err := st.Any(d.h.obj.ID())
		if err != nil {
			obj = d.h.obj
		}
		info = st.Info(obj)
		return nil
	})
	if !d.closed.Load() {
		info.Size = d.h.size.Load()
	}
	return info
}

// Close releases the device; closing it twice is no error.
func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return d.s.drop(d.h, true)
}
