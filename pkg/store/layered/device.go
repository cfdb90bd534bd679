package layered

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// device is one user's handle to an image or snapshot.
type device struct {
	im     *image
	closed atomic.Bool
}

var _ store.Device = (*device)(nil)

// Open implements store.Store. It refuses an image whose chain has a damaged layer,
// naming it, before the first byte is read.
func (st *Store) Open(ctx context.Context, id store.ID) (store.Device, error) {
	unlock, err := st.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	im, err := st.use(id)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", id, err)
	}
	if err := im.view.openAll(); err != nil {
		im.done()
		return nil, fmt.Errorf("open: %w", err)
	}
	st.mu.Lock()
	im.devices++
	st.mu.Unlock()
	return &device{im: im}, nil
}

func (d *device) check() error {
	if d.closed.Load() || d.im.st.closed.Load() {
		return fmt.Errorf("%s: device %w", d.im.view.name, store.ErrClosed)
	}
	if d.im.fenced.Load() {
		return fmt.Errorf("%s: %w", d.im.view.name, store.ErrFenced)
	}
	return nil
}

// writable refuses snapshots.
func (d *device) writable() error {
	if err := d.check(); err != nil {
		return err
	}
	if d.im.kind == store.KindSnapshot {
		return fmt.Errorf("%s: %w", d.im.view.name, store.ErrReadOnly)
	}
	return nil
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check(); err != nil {
		return 0, err
	}
	if err := d.im.view.inRange("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	began := d.im.st.gauge.Begin()
	err := d.im.view.read(p, off)
	d.im.st.gauge.End(began)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.writable(); err != nil {
		return 0, err
	}
	began := d.im.st.gauge.Begin()
	err := d.im.stable(d.im.write(p, off))
	d.im.st.gauge.End(began)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *device) Zero(off, length int64, allocate bool) error {
	if err := d.writable(); err != nil {
		return err
	}
	return d.im.stable(d.im.zero(off, length, allocate))
}

func (d *device) Discard(off, length int64) error {
	if err := d.writable(); err != nil {
		return err
	}
	return d.im.stable(d.im.discard(off, length))
}

func (d *device) Flush() error {
	if err := d.check(); err != nil {
		return err
	}
	return d.im.flush()
}

func (d *device) Info() store.Info {
	st := d.im.st
	d.im.mu.Lock()
	info := d.im.info
	d.im.mu.Unlock()
	_ = st.cat.View(func(tx *meta.Tx) error {
		now, err := st.infoOf(tx, d.im.id)
		if err == nil {
			info = now
		}
		return err
	})
	return info
}

// Close implements store.Device.
func (d *device) Close() error {
	if d.closed.Swap(true) {
		return fmt.Errorf("%s: device %w", d.im.view.name, store.ErrClosed)
	}
	st := d.im.st
	unlock, err := st.lock(context.Background(), d.im.id)
	if errors.Is(err, store.ErrClosed) {
		return nil // the store has let go of everything, or is about to
	}
	if err != nil {
		return err
	}
	defer unlock()
	st.mu.Lock()
	d.im.devices--
	st.mu.Unlock()
	d.im.done()
	return nil
}
