package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

var errBroken = errors.New("the disk is broken")

// brittle is a Disk made of a memstore: each call that changes something is one change
// of the disk, and device writes are in the page cache until a flush. Its flaws are
// what the loops must find.
type brittle struct {
	flaw flaw

	mu    sync.Mutex
	s     *memstore.Store
	n, k  int64
	once  bool
	hit   bool
	dirty map[store.ID]map[int64][]byte // what unflushed blocks held at the last flush
	fresh []store.ID                    // made since the last flush of anything
}

type flaw int

const (
	sound             flaw = iota
	flushForgets           // a flush makes nothing durable
	createForgets          // what was created is lost with the page cache
	crashForgets           // a process crash loses the page cache too
	faultSwallowed         // a write that fails is answered as if it had not
	faultSpills            // a write that fails damages the block after it
	growShowsCut           // a power cut brings back what a shrink cut off
	snapshotUnsettled      // a snapshot is no better than the unflushed writes in it
)

func (d *brittle) Open() (store.Full, error) {
	if d.s == nil {
		d.s = memstore.New()
		d.dirty = make(map[store.ID]map[int64][]byte)
	} else {
		d.s = d.s.Reopen()
	}
	return brittleStore{bent{d.s}, d}, nil
}

func (d *brittle) Crash() error {
	d.s = d.s.Reopen()
	d.k = 0
	if d.flaw == crashForgets {
		return d.PowerCut(nil)
	}
	return nil
}

func (d *brittle) StopAt(k int64) { d.n, d.k, d.once, d.hit = 0, k, false, false }
func (d *brittle) FailAt(k int64) { d.n, d.k, d.once, d.hit = 0, k, true, false }

func (d *brittle) Hit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hit
}

func (d *brittle) PowerCut(rng *rand.Rand) error {
	d.s = d.s.Reopen()
	d.k = 0
	for id, blocks := range d.dirty {
		for block, old := range blocks {
			for at := int64(0); at < blk; at += 512 {
				if rng == nil || rng.IntN(2) == 0 {
					bent{d.s}.poke(id, block*blk+at, old[at:at+512])
				}
			}
		}
	}
	if d.flaw == createForgets && rng == nil {
		for _, id := range d.fresh {
			if err := d.s.Remove(context.Background(), id); err != nil {
				return err
			}
		}
	}
	d.dirty, d.fresh = make(map[store.ID]map[int64][]byte), nil
	return nil
}

// change counts one change of the disk.
func (d *brittle) change() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if d.k != 0 && (d.n == d.k || d.n > d.k && !d.once) {
		d.hit = true
		return errBroken
	}
	return nil
}

// touch notes what blocks hold before a write.
func (d *brittle) touch(id store.ID, off, length int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty[id] == nil {
		d.dirty[id] = make(map[int64][]byte)
	}
	for b := off / blk; b*blk < off+length; b++ {
		if d.dirty[id][b] == nil {
			d.dirty[id][b] = bent{d.s}.peek(id, b*blk, blk)
		}
	}
}

func (d *brittle) settled(id store.ID, from int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b := range d.dirty[id] {
		if b*blk >= from {
			delete(d.dirty[id], b)
		}
	}
}

type brittleStore struct {
	bent
	d *brittle
}

func (s brittleStore) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	if err := s.d.change(); err != nil {
		return store.Info{}, err
	}
	i, err := s.bent.Create(ctx, spec)
	s.d.fresh = append(s.d.fresh, i.ID)
	return i, err
}

func (s brittleStore) Snapshot(ctx context.Context, id store.ID, name string) (store.Info, error) {
	if err := s.d.change(); err != nil {
		return store.Info{}, err
	}
	i, err := s.bent.Snapshot(ctx, id, name)
	if s.d.flaw == snapshotUnsettled && len(s.d.dirty[id]) > 0 {
		s.d.fresh = append(s.d.fresh, i.ID)
		if err := s.bent.Remove(ctx, i.ID); err != nil {
			return i, err
		}
		for block, old := range s.d.dirty[id] {
			s.poke(id, block*blk, old)
		}
		i, err = s.bent.Snapshot(ctx, id, name)
	}
	return i, err
}

func (s brittleStore) Resize(ctx context.Context, id store.ID, size int64) (store.Info, error) {
	if err := s.d.change(); err != nil {
		return store.Info{}, err
	}
	s.d.settled(id, size)
	if before, err := s.Stat(ctx, id); err == nil && s.d.flaw == growShowsCut && size < before.Size {
		s.d.touch(id, size, before.Size-size)
	}
	return s.bent.Resize(ctx, id, size)
}

func (s brittleStore) Flatten(ctx context.Context, id store.ID) error {
	if err := s.d.change(); err != nil {
		return err
	}
	return s.bent.Flatten(ctx, id)
}

func (s brittleStore) StartFlatten(ctx context.Context, id store.ID) (store.Job, error) {
	if err := s.d.change(); err != nil {
		return store.Job{}, err
	}
	return s.bent.StartFlatten(ctx, id)
}

func (s brittleStore) Remove(ctx context.Context, id store.ID) error {
	if err := s.d.change(); err != nil {
		return err
	}
	s.d.settled(id, 0)
	return s.bent.Remove(ctx, id)
}

func (s brittleStore) Revert(ctx context.Context, id, snap store.ID) error {
	if err := s.d.change(); err != nil {
		return err
	}
	s.d.settled(id, 0)
	return s.bent.Revert(ctx, id, snap)
}

func (s brittleStore) Open(ctx context.Context, id store.ID) (store.Device, error) {
	v, err := s.bent.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	b := &bentDevice{Device: v}
	guard := func(off, length int64, fn func() error) error {
		switch err := s.d.change(); {
		case err != nil && s.d.flaw == faultSwallowed:
			return nil
		case err != nil && s.d.flaw == faultSpills:
			s.poke(id, (off+length)/blk*blk, []byte("spilled"))
			return err
		case err != nil:
			return err
		}
		s.d.touch(id, off, length)
		return fn()
	}
	b.write = func(p []byte, off int64) (n int, err error) {
		err = guard(off, int64(len(p)), func() error { n, err = v.WriteAt(p, off); return err })
		if err == nil {
			n = len(p)
		}
		return n, err
	}
	b.zero = func(off, length int64, a bool) error {
		return guard(off, length, func() error { return v.Zero(off, length, a) })
	}
	b.discard = func(off, length int64) error {
		return guard(off, length, func() error { return v.Discard(off, length) })
	}
	b.flush = func() error {
		if err := s.d.change(); err != nil {
			return err
		}
		s.d.fresh = nil
		if s.d.flaw != flushForgets {
			s.d.settled(id, 0)
		}
		return v.Flush()
	}
	return b, nil
}
