package layered

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
	"github.com/strata-csi/strata/pkg/vfs"
)

// reading reads all data of one sealed layer from the disk, past the page cache where
// that can be, compares it with the checksums that are known and, with renew set, adds
// those that are not. It takes no claim, so it holds nobody up: what a job may have
// changed under it is read again, and when a merge has forgotten the checksums, or a job
// keeps the layer for long, it is given up.
type reading struct {
	st  *Store
	row meta.Layer
	// report is told what is wrong.
	report func(text string, harmless bool)
	// pace is called between pieces of at most copyUnit bytes; it may be nil.
	pace  func(ctx context.Context, bytes int) error
	renew bool

	lay   *layer.Layer
	file  vfs.File
	old   *layer.SumReader // nil if there are none (any more)
	fresh *layer.SumWriter // nil without renew
	added bool             // fresh knows more, or other blocks, than old
	era   uint64           // of the layer's checksums
	buf   []byte
	bad   int // blocks reported
}

// reportMost is how many bad blocks of one layer are named.
const reportMost = 8

// errChanging gives up a layer that others change.
var errChanging = errors.New("the layer is being changed")

// claimWait is how long a reading waits for a job to let go of its layer.
const claimWait = 10 * time.Second

// all reads the layer. What is wrong with it is reported, errors are of the reading:
// errChanging, that of ctx, and those of files of checksums.
func (r *reading) all(ctx context.Context) error {
	ref := r.st.layers.acquire(r.row.ID)
	defer r.st.layers.release(ref)
	var err error
	if r.lay, err = ref.get(); err != nil {
		r.reportError(err)
		return nil
	}
	r.buf, r.era = make([]byte, copyUnit), r.st.sums.era(r.row.ID)
	if r.file, err = r.st.medium().OpenFile(r.st.env.DataPath(uint64(r.row.ID)), os.O_RDONLY, 0); err != nil {
		r.reportError(err)
		return nil
	}
	defer r.file.Close()
	if err := r.openSums(); err != nil {
		return err
	}
	defer r.closeOld()
	err = r.chunks(ctx)
	if r.fresh == nil {
		return err
	}
	return r.finish(err)
}

func (r *reading) reportError(err error) {
	if _, gone := r.st.layerRow(r.row.ID); errors.Is(gone, store.ErrNotFound) {
		return // dissolved meanwhile
	}
	r.report(r.st.noticeDamage(r.row.ID, err).Error(), false)
}

func (r *reading) openSums() (err error) {
	if r.old, err = layer.OpenSums(r.st.env, uint64(r.row.ID)); err != nil {
		r.old = nil
		if r.forgotten() {
			return errChanging
		}
		if !errors.Is(err, store.ErrNotFound) {
			r.added = true
			r.report(err.Error(), true)
		}
	}
	if !r.renew {
		return nil
	}
	r.fresh, err = layer.WriteSums(r.st.env, uint64(r.row.ID))
	if err != nil {
		r.closeOld()
		return err
	}
	r.added = r.added || r.fresh.Next() > 0 // an earlier run did not get as far as to say
	return nil
}

// forgotten: a merge has removed the checksums, also from under an open file.
func (r *reading) forgotten() bool { return r.st.sums.era(r.row.ID) != r.era }

func (r *reading) closeOld() {
	if r.old != nil {
		r.old.Close()
		r.old = nil
	}
}

// finish puts the new checksums in the place of the old ones, or keeps them for the next
// run to go on with.
func (r *reading) finish(err error) error {
	if err != nil && !errors.Is(err, errChanging) {
		r.st.sums.keep(r.row.ID, r.era, r.fresh)
		return err
	}
	if err != nil || !r.added {
		r.fresh.Abort()
		return err
	}
	return r.st.sums.commit(r.row.ID, r.era, r.fresh)
}

func (r *reading) chunks(ctx context.Context) error {
	start := int64(0)
	if r.fresh != nil {
		start = r.fresh.Next()
	}
	for chunk := start; ; chunk++ {
		next, some, err := r.lay.NextChunk(chunk)
		if err != nil {
			r.reportError(err)
			return nil
		}
		if !some {
			return ctx.Err()
		}
		chunk = next
		if err := r.chunk(ctx, chunk); err != nil {
			return err
		}
	}
}

// chunk reads one chunk.
func (r *reading) chunk(ctx context.Context, chunk int64) error {
	var known *layer.ChunkSums
	if r.old != nil {
		var err error
		if known, err = r.old.At(chunk); err != nil {
			if r.forgotten() {
				return errChanging
			}
			r.added = true
			r.report(err.Error(), true)
			r.closeOld()
		}
	}
	now := new(layer.ChunkSums)
	for at := 0; at < layer.ChunkBlocks; {
		n, bytes, err := r.steady(ctx, chunk, at, known, now)
		if err != nil {
			return err
		}
		at += n
		if r.pace == nil {
			continue
		}
		if err := r.pace(ctx, bytes); err != nil {
			return err
		}
	}
	if known != nil && known.Len() != now.Len() {
		r.added = true
	}
	if r.fresh == nil {
		return ctx.Err()
	}
	return r.fresh.Add(chunk, now)
}

// steady reads a piece until nobody has changed the layer meanwhile. It returns how many
// blocks it passed and how many bytes it read.
func (r *reading) steady(ctx context.Context, chunk int64, at int, known, now *layer.ChunkSums) (n, bytes int, err error) {
	for {
		claims, err := r.st.layers.unclaimed(ctx, r.row.ID, claimWait)
		if err != nil {
			return 0, 0, err
		}
		if r.forgotten() {
			return 0, 0, errChanging
		}
		p := piece{chunk: chunk, from: at}
		r.read(&p, known)
		if r.st.layers.claimsOf(r.row.ID) != claims {
			continue // what it found may have been half done
		}
		for i, sum := range p.sums {
			now.Set(p.at[i], sum)
		}
		r.added = r.added || p.added
		r.tell(&p)
		return p.blocks, p.bytes, nil
	}
}

// piece is a part of a chunk: up to copyUnit bytes of data, and what is between.
type piece struct {
	chunk        int64
	from, blocks int
	bytes        int
	at           []int    // blocks with a checksum, in the chunk
	sums         []uint32 // what it is, or should be
	added        bool
	bad          []int   // blocks that do not match theirs
	errs         []error // what could not be read
}

func (r *reading) read(p *piece, known *layer.ChunkSums) {
	var states layer.Chunk
	if _, err := r.lay.LoadChunk(p.chunk, &states); err != nil {
		p.errs, p.blocks = append(p.errs, err), layer.ChunkBlocks-p.from
		return
	}
	i := p.from
	for i < layer.ChunkBlocks && p.bytes < copyUnit {
		s, n := states.Run(i)
		if s == layer.Data {
			n = min(n, (copyUnit-p.bytes)/layer.BlockSize)
			b := r.buf[:n*layer.BlockSize]
			if err := readAll(r.file, b, (p.chunk*layer.ChunkBlocks+int64(i))*blockSize); err != nil {
				p.errs = append(p.errs, fmt.Errorf("%d blocks from %d: %w", n, p.chunk*layer.ChunkBlocks+int64(i), err))
			} else {
				p.compare(i, b, known)
			}
			p.bytes += n * layer.BlockSize
		}
		i += n
	}
	p.blocks = i - p.from
}

// compare keeps a known checksum, right or wrong: a wrong one is found again next time.
func (p *piece) compare(i int, b []byte, known *layer.ChunkSums) {
	for ; len(b) > 0; b, i = b[layer.BlockSize:], i+1 {
		sum := layer.Sum(b[:layer.BlockSize])
		want, ok := uint32(0), false
		if known != nil {
			want, ok = known.Get(i)
		}
		switch {
		case !ok:
			want, p.added = sum, true
		case want != sum:
			p.bad = append(p.bad, i)
		}
		p.at, p.sums = append(p.at, i), append(p.sums, want)
	}
}

// tell reports what is wrong with a piece.
func (r *reading) tell(p *piece) {
	for _, err := range p.errs {
		r.report(r.st.noticeDamage(r.row.ID, err).Error(), false)
	}
	for _, i := range p.bad {
		if r.bad++; r.bad <= reportMost {
			r.report(fmt.Sprintf("the block at byte %d does not match its checksum; it is served as it is", (p.chunk*layer.ChunkBlocks+int64(i))*blockSize), false)
		} else if r.bad == reportMost+1 {
			r.report("more blocks do not match their checksums", false)
		}
	}
}

// readAll reads a range; what lies beyond the end reads as zero.
func readAll(f vfs.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(b[n:])
	return nil
}

// medium is the layers' file system, past the page cache where that can be: what is
// cached says nothing about the disk.
func (st *Store) medium() vfs.FS {
	return vfs.NewDirect(st.opts.FS, func(string) bool { return true }, nil)
}
