package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// The checksums of a sealed layer lie in a file of their own, which may be missing or
// know some blocks only. Integers are little endian, checksums CRC-32C.
//
//	0    8    "strataSM"
//	8    4    checksum of bytes 12 to 23
//	12   4    format version, 1
//	16   8    layer
//	24        records, by ascending chunk
//
// Record of a chunk with n sums:
//
//	0    4    checksum of bytes 4 to the end, continued from that of the layer's number
//	4    4    n
//	8    8    chunk
//	16   128  which of its 1024 blocks have a sum, the first in the low bit
//	144  4n   sums of those blocks
//
// A file is written under a name of its own, where it goes on after a crash behind the
// last whole record, and renamed when it is complete and durable.
const (
	sumsMagic   = "strataSM"
	sumsVersion = 1
	sumsHeader  = 24
	sumsFixed   = 144
	sumsSuffix  = ".sums"
	sumsNew     = ".new"
	sumsBuffer  = 64 << 10
)

// SumsPath is the name of the file with a layer's checksums.
func (e *Env) SumsPath(id uint64) string {
	return e.DataPath(id)[:len(e.DataPath(id))-len(dataSuffix)] + sumsSuffix
}

// Sum is the checksum of a block.
func Sum(block []byte) uint32 { return crc32.Checksum(block, castagnoli()) }

// ChunkSums are the checksums known of the blocks of one chunk.
type ChunkSums struct {
	has [ChunkBlocks / 8]byte
	sum [ChunkBlocks]uint32
	n   int
}

// Get is the checksum of block i of the chunk, if it is known.
func (c *ChunkSums) Get(i int) (uint32, bool) { return c.sum[i], c.has[i/8]&(1<<(i%8)) != 0 }

// Set enters the checksum of block i of the chunk.
func (c *ChunkSums) Set(i int, sum uint32) {
	if c.has[i/8]&(1<<(i%8)) == 0 {
		c.has[i/8] |= 1 << (i % 8)
		c.n++
	}
	c.sum[i] = sum
}

// Len is how many blocks have a checksum.
func (c *ChunkSums) Len() int { return c.n }

func (c *ChunkSums) encode(layer uint64, chunk int64) []byte {
	b := make([]byte, sumsFixed, sumsFixed+4*c.n)
	le := binary.LittleEndian
	le.PutUint32(b[4:], uint32(c.n))
	le.PutUint64(b[8:], uint64(chunk))
	copy(b[16:], c.has[:])
	for i := range ChunkBlocks {
		if sum, ok := c.Get(i); ok {
			b = le.AppendUint32(b, sum)
		}
	}
	le.PutUint32(b, recordSum(layer, b[4:]))
	return b
}

func recordSum(layer uint64, b []byte) uint32 {
	seed := crc32.Checksum(binary.LittleEndian.AppendUint64(nil, layer), castagnoli())
	return crc32.Update(seed, castagnoli(), b)
}

func sumsHead(layer uint64) []byte {
	b := make([]byte, sumsHeader)
	copy(b, sumsMagic)
	binary.LittleEndian.PutUint32(b[12:], sumsVersion)
	binary.LittleEndian.PutUint64(b[16:], layer)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli()))
	return b
}

// SumReader reads the checksums of a layer from the first chunk on. It is for one
// goroutine.
type SumReader struct {
	layer uint64
	file  vfs.File
	r     *bufio.Reader
	end   int64 // of the records read so far
	chunk int64 // of the record at hand, -1 before the first
	sums  *ChunkSums
	done  bool
}

// OpenSums opens the checksums of a layer. store.ErrNotFound if it has none,
// store.ErrCorrupt if they are not a layer's checksums.
func OpenSums(env *Env, id uint64) (*SumReader, error) {
	return openSums(env, id, env.SumsPath(id), os.O_RDONLY)
}

func openSums(env *Env, id uint64, name string, flag int) (*SumReader, error) {
	f, err := env.FS.OpenFile(name, flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checksums of layer %016x: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return nil, fault(id, "open checksums", err)
	}
	r := &SumReader{layer: id, file: f, chunk: -1, end: sumsHeader}
	r.r = bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), sumsBuffer)
	head := make([]byte, sumsHeader)
	if _, err = io.ReadFull(r.r, head); err == nil && string(head) != string(sumsHead(id)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = fmt.Errorf("they have no valid header: %w", store.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, fault(id, "open checksums", err)
	}
	return r, nil
}

// At returns what is known of a chunk, nil if nothing. Chunks are asked for in
// ascending order. store.ErrCorrupt where the file is damaged; nothing is known from
// there on.
func (r *SumReader) At(chunk int64) (*ChunkSums, error) {
	for !r.done && r.chunk < chunk {
		if err := r.next(); err != nil {
			return nil, err
		}
	}
	if !r.done && r.chunk == chunk {
		return r.sums, nil
	}
	return nil, nil
}

// next reads one record. At the end, and at a damaged one, it is done.
func (r *SumReader) next() error {
	var fixed [sumsFixed]byte
	_, err := io.ReadFull(r.r, fixed[:])
	if errors.Is(err, io.EOF) {
		r.done = true
		return nil
	}
	bad := func(why string) error {
		r.done = true
		return fault(r.layer, "read checksums", fmt.Errorf("after chunk %d: %s: %w", r.chunk, why, store.ErrCorrupt))
	}
	le := binary.LittleEndian
	n, chunk := int(le.Uint32(fixed[4:])), int64(le.Uint64(fixed[8:]))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return bad("cut off")
	case err != nil:
		r.done = true
		return fault(r.layer, "read checksums", err)
	case n < 0 || n > ChunkBlocks:
		return bad("impossible length")
	}
	rest := make([]byte, 4*n)
	if _, err := io.ReadFull(r.r, rest); err != nil {
		return bad(err.Error())
	}
	if recordSum(r.layer, append(fixed[4:], rest...)) != le.Uint32(fixed[:]) {
		return bad("they do not match their own checksum")
	}
	if chunk <= r.chunk {
		return bad("out of order")
	}
	c := new(ChunkSums)
	for i := range ChunkBlocks {
		if fixed[16+i/8]&(1<<(i%8)) == 0 {
			continue
		}
		if len(rest) == 0 {
			return bad("fewer than they should be")
		}
		c.Set(i, le.Uint32(rest))
		rest = rest[4:]
	}
	r.chunk, r.sums = chunk, c
	r.end += int64(sumsFixed + 4*n)
	return nil
}

// Close closes the file.
func (r *SumReader) Close() error { return r.file.Close() }

// SumWriter writes the checksums of a layer anew. It is for one goroutine.
type SumWriter struct {
	env  *Env
	id   uint64
	name string
	file vfs.File
	at   int64
	next int64
}

// WriteSums begins to write the checksums of a layer, or goes on where that was left
// off: Next is the first chunk that is missing. What readers find changes with Commit.
func WriteSums(env *Env, id uint64) (*SumWriter, error) {
	name := env.SumsPath(id) + sumsNew
	w := &SumWriter{env: env, id: id, name: name, at: sumsHeader}
	if r, err := openSums(env, id, name, os.O_RDWR); err == nil {
		for err == nil && !r.done {
			err = r.next() // at the first damaged record the writer goes on
		}
		w.file, w.at, w.next = r.file, r.end, r.chunk+1
		if err := w.file.Truncate(w.at); err != nil {
			w.file.Close()
			return nil, fault(id, "write checksums", err)
		}
		return w, nil
	}
	var err error
	if w.file, err = env.FS.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, fault(id, "write checksums", err)
	}
	if _, err := w.file.WriteAt(sumsHead(id), 0); err != nil {
		w.Abort()
		return nil, fault(id, "write checksums", err)
	}
	return w, nil
}

// Next is the first chunk whose checksums were not yet added.
func (w *SumWriter) Next() int64 { return w.next }

// Add writes the checksums of a chunk at or after Next.
func (w *SumWriter) Add(chunk int64, c *ChunkSums) error {
	if c.Len() == 0 {
		return nil
	}
	b := c.encode(w.id, chunk)
	if _, err := w.file.WriteAt(b, w.at); err != nil {
		return fault(w.id, "write checksums", err)
	}
	w.at, w.next = w.at+int64(len(b)), chunk+1
	return nil
}

// Commit makes what was added durable and puts it in the place of what was there.
func (w *SumWriter) Commit() error {
	err := w.file.Sync()
	if cerr := w.file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = w.env.FS.Rename(w.name, w.env.SumsPath(w.id))
	}
	if err == nil {
		err = w.env.FS.SyncDir(w.env.Dir)
	}
	if err != nil {
		_ = w.env.FS.Remove(w.name) // what failed to be durable must not be gone on with
		return fault(w.id, "write checksums", err)
	}
	return nil
}

// Keep leaves what was added for the next WriteSums.
func (w *SumWriter) Keep() { w.file.Close() }

// Abort throws away what was added.
func (w *SumWriter) Abort() {
	w.file.Close()
	_ = w.env.FS.Remove(w.name) // else it is gone on with, which is as good
}

// RemoveSums forgets the checksums of a layer, durably.
func RemoveSums(env *Env, id uint64) error {
	gone := false
	for _, name := range []string{env.SumsPath(id) + sumsNew, env.SumsPath(id)} {
		err := env.FS.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault(id, "remove checksums", err)
		}
		gone = gone || err == nil
	}
	if !gone {
		return nil
	}
	if err := env.FS.SyncDir(env.Dir); err != nil {
		return fault(id, "remove checksums", err)
	}
	return nil
}
