package memstore

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

var _ store.Device = (*device)(nil)

type device struct {
	s      *Store
	o      *object
	closed bool // guarded by the disk's lock
}

// Open gives access to the bytes of an image or a snapshot.
func (s *Store) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.any(id)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	o.opened++
	return &device{s: s, o: o}, nil
}

// enter locks the store for one call and checks the range; mutate refuses snapshots.
func (v *device) enter(off, length int64, mutate bool) error {
	d, err := v.s.enter(context.Background())
	if err != nil {
		return err
	}
	err = v.allow(off, length, mutate)
	if err != nil {
		d.mu.Unlock()
	}
	return err
}

func (v *device) allow(off, length int64, mutate bool) error {
	if v.closed {
		return store.ErrClosed
	}
	if v.o.source != nil && v.o.removed {
		return store.ErrFenced
	}
	if mutate && v.o.info.Kind == store.KindSnapshot {
		return fmt.Errorf("snapshot: %w", store.ErrReadOnly)
	}
	return v.o.check(off, length)
}

func (v *device) fail(op string, err error) error {
	return fmt.Errorf("%s %s: %w", op, v.o.info.Name, err)
}

// ReadAt fills p from off.
func (v *device) ReadAt(p []byte, off int64) (int, error) {
	if err := v.enter(off, int64(len(p)), false); err != nil {
		return 0, v.fail("read", err)
	}
	defer v.s.disk.mu.Unlock()
	v.o.read(p, off)
	return len(p), nil
}

// WriteAt writes p at off.
func (v *device) WriteAt(p []byte, off int64) (int, error) {
	if err := v.enter(off, int64(len(p)), true); err != nil {
		return 0, v.fail("write", err)
	}
	defer v.s.disk.mu.Unlock()
	v.o.write(p, off)
	return len(p), nil
}

// Zero makes the range read as zero.
func (v *device) Zero(off, length int64, allocate bool) error {
	if err := v.enter(off, length, true); err != nil {
		return v.fail("zero", err)
	}
	defer v.s.disk.mu.Unlock()
	v.o.zero(off, length, allocate)
	return nil
}

// Discard makes the whole blocks in the range read as zero.
func (v *device) Discard(off, length int64) error {
	if err := v.enter(off, length, true); err != nil {
		return v.fail("discard", err)
	}
	defer v.s.disk.mu.Unlock()
	v.o.discard(off, length)
	return nil
}

// Flush does nothing: every write that was answered survives Reopen.
func (v *device) Flush() error {
	if err := v.enter(0, 0, false); err != nil {
		return v.fail("flush", err)
	}
	v.s.disk.mu.Unlock()
	return nil
}

// Extents lists the runs of a range. fn may use the store.
func (v *device) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	if err := v.enter(off, length, false); err != nil {
		return v.fail("extents of", err)
	}
	var runs []store.Extent
	from, err := v.s.disk.base(base, v.o)
	if err == nil {
		v.o.extents(off, length, from, func(e store.Extent) { runs = append(runs, e) })
	}
	v.s.disk.mu.Unlock()
	if err != nil {
		return v.fail("extents of", err)
	}
	for _, e := range runs {
		if !fn(e) {
			break
		}
	}
	return nil
}

// base finds the snapshot that a comparison starts from; "" is none.
func (d *disk) base(id store.ID, o *object) (*view, error) {
	if id == "" {
		return nil, nil
	}
	from, err := d.find(id, store.KindSnapshot)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	if from.fam != o.fam || !o.part.has(from.part) {
		return nil, fmt.Errorf("snapshot %q is not in the history of %q: %w",
			from.describe().Ref(), o.describe().Ref(), store.ErrInvalid)
	}
	return &from.view, nil
}

// Info describes the image or snapshot as it is now, also when the device is closed.
func (v *device) Info() store.Info {
	v.s.disk.mu.Lock()
	defer v.s.disk.mu.Unlock()
	return v.o.describe()
}

// Close releases the device; closing it twice is no error.
func (v *device) Close() error {
	v.s.disk.mu.Lock()
	defer v.s.disk.mu.Unlock()
	if !v.closed && v.s.gen == v.s.disk.gen {
		v.o.opened--
	}
	v.closed = true
	return nil
}
