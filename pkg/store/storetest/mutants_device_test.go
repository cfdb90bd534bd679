package storetest

import (
	"context"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// bentDevice overrides what is set.
type bentDevice struct {
	store.Device
	read    func(p []byte, off int64) (int, error)
	write   func(p []byte, off int64) (int, error)
	zero    func(off, length int64, allocate bool) error
	discard func(off, length int64) error
	extents func(off, length int64, base store.ID, fn func(store.Extent) bool) error
	flush   func() error
	close   func() error
}

func (d *bentDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.read != nil {
		return d.read(p, off)
	}
	return d.Device.ReadAt(p, off)
}

func (d *bentDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.write != nil {
		return d.write(p, off)
	}
	return d.Device.WriteAt(p, off)
}

func (d *bentDevice) Zero(off, length int64, allocate bool) error {
	if d.zero != nil {
		return d.zero(off, length, allocate)
	}
	return d.Device.Zero(off, length, allocate)
}

func (d *bentDevice) Discard(off, length int64) error {
	if d.discard != nil {
		return d.discard(off, length)
	}
	return d.Device.Discard(off, length)
}

func (d *bentDevice) Extents(off, length int64, base store.ID, fn func(store.Extent) bool) error {
	if d.extents != nil {
		return d.extents(off, length, base, fn)
	}
	return d.Device.Extents(off, length, base, fn)
}

func (d *bentDevice) Flush() error {
	if d.flush != nil {
		return d.flush()
	}
	return d.Device.Flush()
}

func (d *bentDevice) Close() error {
	if d.close != nil {
		return d.close()
	}
	return d.Device.Close()
}

// deviceMutant bends every device that is opened.
type deviceMutant struct {
	bent
	bend func(*bentDevice)
}

func (m deviceMutant) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := m.bent.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	b := &bentDevice{Device: d}
	m.bend(b)
	return b, nil
}

func onDevice(bend func(*bentDevice)) func(*memstore.Store) store.Full {
	return func(s *memstore.Store) store.Full { return deviceMutant{bent{s}, bend} }
}

func discardIgnored(d *bentDevice) {
	d.discard = func(int64, int64) error { return nil }
}

func discardTakesEdges(d *bentDevice) {
	d.discard = func(off, length int64) error { return d.Device.Zero(off, length, false) }
}

func zeroOnlyWholeBlocks(d *bentDevice) {
	d.zero = func(off, length int64, _ bool) error { return d.Device.Discard(off, length) }
}

func writeRoundsUp(d *bentDevice) { // a partial write clears the rest of its last block
	d.write = func(p []byte, off int64) (int, error) {
		n, err := d.Device.WriteAt(p, off)
		end := off + int64(len(p))
		if err == nil && end%blk != 0 {
			err = d.Device.Zero(end, blk-end%blk, false)
		}
		return n, err
	}
}

func writeCutsRange(d *bentDevice) { // what is outside is silently left out
	d.write = func(p []byte, off int64) (int, error) {
		size := d.Info().Size
		if off >= 0 && off < size && off+int64(len(p)) > size {
			_, err := d.Device.WriteAt(p[:size-off], off)
			return len(p), err
		}
		return d.Device.WriteAt(p, off)
	}
}

func writeTorn(d *bentDevice) { // block by block, in no order with others
	d.write = func(p []byte, off int64) (int, error) {
		for at := len(p) / 512 * 512; at >= 0; at -= 512 {
			if _, err := d.Device.WriteAt(p[at:min(at+512, len(p))], off+int64(at)); err != nil {
				return 0, err
			}
			yield()
		}
		return len(p), nil
	}
}

func extentsHideData(d *bentDevice) {
	d.extents = func(off, length int64, base store.ID, fn func(store.Extent) bool) error {
		return d.Device.Extents(off, length, base, func(e store.Extent) bool {
			if e.Depth > 1 {
				e.Data, e.Zero = false, true
			}
			return fn(e)
		})
	}
}

func extentsWholeBlocks(d *bentDevice) {
	d.extents = func(off, length int64, base store.ID, fn func(store.Extent) bool) error {
		first, last := off/blk*blk, (off+length+blk-1)/blk*blk
		return d.Device.Extents(first, last-first, base, fn)
	}
}

func closeTwiceHarms(d *bentDevice) { // a closed device still works
	d.close = func() error { return nil }
}

// lazy answers writes before they are carried out: each when the next one comes.
type lazy struct {
	bent
	mu   *sync.Mutex
	held map[store.ID]func() error
}

func newLazy(s *memstore.Store) store.Full {
	return lazy{bent{s}, &sync.Mutex{}, make(map[store.ID]func() error)}
}

func (l lazy) drain(id store.ID) {
	if f := l.held[id]; f != nil && f() == nil {
		delete(l.held, id)
	}
}

func (l lazy) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := l.bent.Open(ctx, id)
	if err != nil || d.Info().Kind == store.KindSnapshot {
		return d, err
	}
	b := &bentDevice{Device: d}
	b.write = func(p []byte, off int64) (int, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drain(id)
		if off < 0 || off+int64(len(p)) > d.Info().Size {
			return d.WriteAt(p, off)
		}
		q := append([]byte(nil), p...)
		l.held[id] = func() error { _, err := d.WriteAt(q, off); return err }
		return len(p), nil
	}
	settled := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drain(id)
	}
	b.read = func(p []byte, off int64) (int, error) { settled(); return d.ReadAt(p, off) }
	b.zero = func(off, n int64, a bool) error { settled(); return d.Zero(off, n, a) }
	b.discard = func(off, n int64) error { settled(); return d.Discard(off, n) }
	b.flush = func() error { settled(); return d.Flush() }
	b.close = func() error { settled(); return d.Close() }
	b.extents = func(off, n int64, base store.ID, fn func(store.Extent) bool) error {
		settled()
		return d.Extents(off, n, base, fn)
	}
	return b, nil
}
