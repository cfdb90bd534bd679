package layer

import (
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// enter admits a write. Every successful enter is followed by exit. The counter
// goes up before ready is looked at, so that MarkClean, which does it the other
// way round, never overlooks a write.
func (l *Layer) enter() error {
	for {
		l.inflight.Add(1)
		if l.ready.Load() {
			return nil
		}
		l.inflight.Add(-1)
		if err := l.makeReady(); err != nil {
			return err
		}
	}
}

func (l *Layer) exit() { l.inflight.Add(-1) }

// changed notes that the data file was, or may have been, changed, and reaches end.
// The count goes first: whoever sees the new end finds the change unsynced.
func (l *Layer) changed(end int64) {
	l.written.Add(1)
	for {
		old := l.dataEnd.Load()
		if end <= old || l.dataEnd.CompareAndSwap(old, end) {
			return
		}
	}
}

// ReadData reads the data file at off, in bytes. What was never written reads as
// zero. It does not look at the map.
func (l *Layer) ReadData(p []byte, off int64) error {
	if err := readFull(l.data, p, off); err != nil {
		return fault(l.id, "read data", err)
	}
	return nil
}

// WriteData writes p to the data file at off, in bytes. It does not change the
// map. When it returns the bytes survive a crash of the process, after Flush also
// one of the machine. store.ErrReadOnly when poisoned, store.ErrNoSpace when full.
func (l *Layer) WriteData(p []byte, off int64) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.exit()
	n, err := l.data.WriteAt(p, off)
	if err != nil {
		l.changed(0) // what was written is in doubt, and so is how far it reaches
		return fault(l.id, "write data", err)
	}
	l.changed(off + int64(n))
	return nil
}

// Punch gives n bytes of the data file from off back to the file system; they
// then read as zero. Mark the blocks first, or show nobody a difference. Where
// the file system cannot do it nothing happens, without error.
func (l *Layer) Punch(off, n int64) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.exit()
	err := l.data.PunchHole(off, n)
	if err != nil && errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	l.changed(0)
	if err != nil {
		return fault(l.id, "punch", err)
	}
	return nil
}

// CloneData shares the extents of n bytes at off of src's data file at the same
// place of this one. store.ErrUnsupported where the file system cannot; nothing
// has changed then, and the caller copies.
func (l *Layer) CloneData(src *Layer, off, n int64) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.exit()
	err := l.data.CloneRange(src.data, off, off, n)
	if err != nil && errors.Is(err, vfs.ErrUnsupported) {
		return fmt.Errorf("layer %016x: clone data: %w: %w", l.id, store.ErrUnsupported, err)
	}
	if err != nil {
		l.changed(0)
		return fault(l.id, "clone data", err)
	}
	l.changed(off + n)
	return nil
}

// DropCache tells the system that n bytes of the data file at off will not be
// read again soon.
func (l *Layer) DropCache(off, n int64) error {
	if err := l.data.DropCache(off, n); err != nil {
		return fault(l.id, "drop cache", err)
	}
	return nil
}

// Allocated is the space both files take on disk, in bytes. Shared extents count
// for each file that has them.
func (l *Layer) Allocated() (int64, error) {
	data, err := l.data.Allocated()
	if err != nil {
		return 0, fault(l.id, "size of data file", err)
	}
	m, err := l.mapf.Allocated()
	if err != nil {
		return 0, fault(l.id, "size of map file", err)
	}
	return data + m, nil
}
