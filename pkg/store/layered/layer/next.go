package layer

import (
	"errors"
	"io"

	"github.com/strata-csi/strata/pkg/vfs"
)

// NextChunk returns the lowest chunk at or after c with a block that is not Absent;
// ok is false if there is none. Its cost follows what was written to the layer, not
// its size. A Mark that runs beside it may or may not be seen.
func (l *Layer) NextChunk(c int64) (next int64, ok bool, err error) {
	var states Chunk
	for !l.Empty() {
		no, ok, err := l.nextPage(c / chunksPerPage)
		if err != nil || !ok {
			return 0, false, err
		}
		c = max(c, no*chunksPerPage)
		for end := (no + 1) * chunksPerPage; c < end; c++ {
			some, err := l.LoadChunk(c, &states)
			if some || err != nil {
				return c, some, err
			}
		}
	}
	return 0, false, nil
}

// nextPage returns the lowest page at or after no that was ever written or is about
// to be. It trusts holes of the map file, which only say that nothing was written;
// it never trusts those of the data file.
func (l *Layer) nextPage(no int64) (next int64, ok bool, err error) {
	l.mu.RLock()
	for _, pages := range []map[int64]*page{l.dirty, l.frozen} {
		for at := range pages {
			if at >= no && (!ok || at < next) {
				next, ok = at, true
			}
		}
	}
	l.mu.RUnlock()
	off, err := vfs.NextData(l.mapf, pageOffset(l.half, no))
	if errors.Is(err, io.EOF) {
		return next, ok, nil
	}
	if err != nil {
		return 0, false, fault(l.id, "find map pages", err)
	}
	if at := (off - pageOffset(l.half, 0)) / (2 * pageSlot); !ok || at < next {
		next, ok = at, true
	}
	return max(next, no), ok, nil
}
