package layer

import "github.com/strata-csi/strata/pkg/vfs"

const (
	// MinAllocUnit is the smallest Env.AllocUnit, in bytes.
	MinAllocUnit = BlockSize
	// MaxAllocUnit is the largest.
	MaxAllocUnit = 1 << 20
)

// Reserve takes the space of the allocation units that n bytes of the data file at off
// lie in, as far as they lie below limit, before those bytes are written. Units that
// hold data have it already; units that the write fills get it from the write. It is
// advice: where there is no space for whole units, or the file system cannot, the write
// takes what it needs. It changes neither map nor content, so nothing depends on it.
func (l *Layer) Reserve(off, n, limit int64) {
	unit := l.env.AllocUnit
	if unit <= BlockSize || n <= 0 || l.poison.Load() != nil {
		return
	}
	var states Chunk
	loaded := int64(-1)
	for at := off / unit * unit; at < off+n; at += unit {
		end := min(at+unit, limit)
		if off <= at && end <= off+n || end <= at {
			continue
		}
		if c := at / (ChunkBlocks * BlockSize); c != loaded {
			if _, err := l.LoadChunk(c, &states); err != nil {
				return // the write meets it, too
			}
			loaded = c
		}
		if states.holds(int(at/BlockSize%ChunkBlocks), int(unit/BlockSize), Data) {
			continue
		}
		if vfs.Allocate(l.data, at, end-at) != nil {
			return
		}
	}
}

// holds tells whether one of n blocks from block i has a state.
func (c *Chunk) holds(i, n int, s State) bool {
	for end := i + n; i < end; {
		have, run := c.Run(i)
		if have == s {
			return true
		}
		i += run
	}
	return false
}

// TrimChunk gives back what Reserve took in chunk c and no block uses. Nobody else may
// write to the layer. The space of what was marked Data and is not any more goes, too.
func (l *Layer) TrimChunk(c int64) error {
	var states Chunk
	some, err := l.LoadChunk(c, &states)
	if err != nil || !some {
		return err
	}
	per := int(max(l.env.AllocUnit, MaxAllocUnit) / BlockSize) // it may have been larger before
	for unit := 0; unit < ChunkBlocks; unit += per {
		if !states.holds(unit, per, Data) && !states.holds(unit, per, Zero) {
			continue
		}
		for i := unit; i < unit+per; {
			s, n := states.Run(i)
			n = min(n, unit+per-i)
			if s != Data {
				if err := l.Punch((c*ChunkBlocks+int64(i))*BlockSize, int64(n)*BlockSize); err != nil {
					return err
				}
			}
			i += n
		}
	}
	return nil
}

// TrimEnd gives back what Reserve took beyond the end of the data file, which some file
// systems do not punch. Nobody else may write to the layer.
func (l *Layer) TrimEnd() error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.exit()
	size, err := l.data.Size()
	if err == nil {
		err = l.data.Truncate(size)
	}
	if err != nil {
		return fault(l.id, "trim", err)
	}
	l.changed(0)
	return nil
}

// Slack is how many bytes the data file takes on the disk beyond its blocks in state
// Data, 0 if fewer: what Reserve took, and the file system's own.
func (l *Layer) Slack() (int64, error) {
	taken, err := l.data.Allocated()
	if err != nil {
		return 0, fault(l.id, "size of data file", err)
	}
	data, _ := l.Blocks()
	return max(taken-data*BlockSize, 0), nil
}
