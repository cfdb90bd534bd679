package layered

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
	"github.com/strata-csi/strata/pkg/vfs"
)

// A merged index answers for a run of sealed layers of one image at once, so that a
// cold read of an image with thousands of snapshots looks at a few dozen files. It
// is a cache: its layers' maps hold the truth, and an index that cannot be read is
// passed over. Whatever changes one of its layers forgets it first, in the same
// transaction (dropIndex).
//
// The file, all numbers little-endian; d is the number of directory pages, b the
// length of the bitmap, rounded up to 4096:
//
//	offset        size  content
//	0             8     magic "strataIX"
//	8             4     number of layers n, 1 to indexSpan
//	12            4     CRC32C of bytes 0 to 11 and 16 to 24+8n
//	16            4     d
//	20            4     CRC32C of the bitmap
//	24            8n    layer ids, top first
//	4096          d/8   bitmap, rounded up: which directory pages were written; of the
//	                    chunks of the others no layer says anything
//	4096+b        4096d directory, 16 bytes a chunk: offset (8) and length (4) of its
//	                    record, CRC32C of record, chunk number and top layer (4). No
//	                    entry of a written page is zero: of a chunk of which no layer
//	                    says anything the length alone is
//	4096+b+4096d        records: runs of a length less one (2) and a slot (1):
//	                    0 nowhere, else 1 + position of the layer, with 128 set
//	                    for zero
//
// So whatever of a file goes missing or turns to zeroes, it is noticed.
const (
	indexMagic   = "strataIX"
	indexSuffix  = ".index"
	indexSpan    = 64
	indexFixed   = 24
	indexPage    = 4096
	indexEntry   = 16
	indexPerPage = indexPage / indexEntry
	indexZero    = 0x80
	indexRunSize = 3
)

// mergedIndex is an open index. It is shared by nothing and safe for concurrent use.
type mergedIndex struct {
	file    vfs.File
	top     meta.LayerID
	n       int
	entries int64  // where the directory begins
	present []byte // bitmap of directory pages
}

func indexPath(env *layer.Env, top meta.LayerID) string {
	return path.Join(env.Dir, fmt.Sprintf("%016x", uint64(top))+indexSuffix)
}

func castagnoli(parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// indexHeader is the beginning of an index. Its checksum covers all of it.
func indexHeader(ids []meta.LayerID, pages int64, present []byte) []byte {
	h := make([]byte, indexFixed, indexFixed+8*len(ids))
	copy(h, indexMagic)
	binary.LittleEndian.PutUint32(h[8:], uint32(len(ids)))
	binary.LittleEndian.PutUint32(h[16:], uint32(pages))
	binary.LittleEndian.PutUint32(h[20:], castagnoli(present))
	for _, id := range ids {
		h = binary.LittleEndian.AppendUint64(h, uint64(id))
	}
	binary.LittleEndian.PutUint32(h[12:], castagnoli(h[:12], h[16:]))
	return h
}

// directoryAt is where the directory of that many pages begins.
func directoryAt(pages int64) int64 {
	return indexPage + (pages/8+indexPage)/indexPage*indexPage
}

// openIndex opens the index over exactly these layers.
func openIndex(env *layer.Env, ids []meta.LayerID) (*mergedIndex, error) {
	f, err := env.FS.OpenFile(indexPath(env, ids[0]), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	x := &mergedIndex{file: f, top: ids[0], n: len(ids)}
	if err := x.readHead(ids); err != nil {
		f.Close()
		return nil, fmt.Errorf("index of layer %d: %w", ids[0], err)
	}
	return x, nil
}

func (x *mergedIndex) readHead(ids []meta.LayerID) error {
	have := make([]byte, indexFixed+8*len(ids))
	if _, err := x.file.ReadAt(have, 0); err != nil {
		return err
	}
	pages := int64(binary.LittleEndian.Uint32(have[16:]))
	if pages > store.MaxSize/chunkBytes/indexPerPage {
		return fmt.Errorf("%d directory pages: %w", pages, store.ErrCorrupt)
	}
	x.entries, x.present = directoryAt(pages), make([]byte, (pages+7)/8)
	if _, err := x.file.ReadAt(x.present, indexPage); err != nil {
		return err
	}
	if !bytes.Equal(have, indexHeader(ids, pages, x.present)) {
		return fmt.Errorf("it does not fit its layers: %w", store.ErrCorrupt)
	}
	return nil
}

// has tells whether any layer says anything of the chunks of a directory page.
func (x *mergedIndex) has(page int64) bool {
	return page/8 < int64(len(x.present)) && x.present[page/8]&(1<<(page%8)) != 0
}

// load enters what the index knows of a chunk where nothing above decided, and
// returns how many blocks it decided. links are the index's layers in the chain.
func (x *mergedIndex) load(chunk int64, slots *[layer.ChunkBlocks]slot, visible int, links []link) (int, error) {
	if !x.has(chunk / indexPerPage) {
		return 0, nil
	}
	var entry [indexEntry]byte
	if _, err := x.file.ReadAt(entry[:], x.entries+chunk*indexEntry); err != nil {
		return 0, err
	}
	length := int(binary.LittleEndian.Uint32(entry[8:]))
	bad := fmt.Errorf("index of layer %d, chunk %d: %w", x.top, chunk, store.ErrCorrupt)
	if length%indexRunSize != 0 || length > indexRunSize*layer.ChunkBlocks {
		return 0, bad
	}
	record := make([]byte, length)
	if _, err := x.file.ReadAt(record, int64(binary.LittleEndian.Uint64(entry[:]))); length > 0 && err != nil {
		return 0, err
	}
	if indexSum(record, chunk, x.top) != binary.LittleEndian.Uint32(entry[12:]) {
		return 0, bad
	}
	decided, block := 0, 0
	for ; len(record) > 0; record = record[indexRunSize:] {
		n := int(binary.LittleEndian.Uint16(record)) + 1
		at := int(record[2] &^ indexZero)
		if at > x.n || block+n > layer.ChunkBlocks {
			return 0, bad
		}
		for i := block; at != 0 && i < min(block+n, visible); i++ {
			if slots[i] != 0 {
				continue
			}
			slots[i] = links[at-1].index
			if record[2]&indexZero != 0 {
				slots[i] |= slotZero
			}
			decided++
		}
		block += n
	}
	return decided, nil
}

func indexSum(record []byte, chunk int64, top meta.LayerID) uint32 {
	b := binary.LittleEndian.AppendUint64(nil, uint64(chunk))
	return castagnoli(record, binary.LittleEndian.AppendUint64(b, uint64(top)))
}

func (x *mergedIndex) close() { x.file.Close() }

// writeIndex writes the index of sealed layers, top first. Nothing refers to the
// file before the transaction that follows, so a crash leaves at most a stray file
// that the next index or the removal of its top layer replaces.
func writeIndex(env *layer.Env, rows []meta.Layer, layers []*layer.Layer) error {
	name := indexPath(env, rows[0].ID)
	f, err := env.FS.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	ids := make([]meta.LayerID, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	err = fillIndex(f, ids, rows, layers)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = env.FS.Remove(name)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return env.FS.SyncDir(env.Dir)
}

// fillIndex writes the header last: before, the file is none.
func fillIndex(f vfs.File, ids []meta.LayerID, rows []meta.Layer, layers []*layer.Layer) error {
	chunks := (rows[0].Size + chunkBytes - 1) / chunkBytes
	d := newDirectory(f, ids[0], (chunks+indexPerPage-1)/indexPerPage)
	for chunk := int64(0); ; chunk++ {
		var err error
		if chunk, err = nextOf(layers, chunk, chunks); err != nil {
			return err
		}
		if chunk >= chunks {
			break
		}
		record, err := mergeChunk(chunk, rows, layers)
		if err != nil {
			return err
		}
		if err := d.add(chunk, record); err != nil {
			return err
		}
	}
	if err := d.turn(-1); err != nil {
		return err
	}
	if _, err := f.WriteAt(d.present, indexPage); err != nil {
		return err
	}
	_, err := f.WriteAt(indexHeader(ids, d.pages, d.present), 0)
	return err
}

// nextOf is the first chunk from c on that one of the layers says something of.
func nextOf(layers []*layer.Layer, c, end int64) (int64, error) {
	first := end
	for _, lay := range layers {
		next, some, err := lay.NextChunk(c)
		if err != nil {
			return 0, err
		}
		if some {
			first = min(first, next)
		}
	}
	return first, nil
}

// directory writes records in the order of chunks, and their entries page by page.
type directory struct {
	f       vfs.File
	top     meta.LayerID
	pages   int64
	present []byte
	at      int64 // where the next record goes
	page    int64 // the one in buf, -1 for none
	buf     [indexPage]byte
}

func newDirectory(f vfs.File, top meta.LayerID, pages int64) *directory {
	return &directory{f: f, top: top, pages: pages, present: make([]byte, (pages+7)/8), page: -1,
		at: directoryAt(pages) + pages*indexPage}
}

func (d *directory) add(chunk int64, record []byte) error {
	if len(record) == 0 {
		return nil
	}
	if page := chunk / indexPerPage; page != d.page {
		if err := d.turn(page); err != nil {
			return err
		}
	}
	d.enter(chunk, record)
	if _, err := d.f.WriteAt(record, d.at); err != nil {
		return err
	}
	d.at += int64(len(record))
	return nil
}

func (d *directory) enter(chunk int64, record []byte) {
	entry := d.buf[chunk%indexPerPage*indexEntry:]
	binary.LittleEndian.PutUint64(entry, uint64(d.at))
	binary.LittleEndian.PutUint32(entry[8:], uint32(len(record)))
	binary.LittleEndian.PutUint32(entry[12:], indexSum(record, chunk, d.top))
}

// turn writes the page at hand and begins another one, in which every chunk is yet one
// that no layer says anything of.
func (d *directory) turn(page int64) error {
	if d.page >= 0 {
		d.present[d.page/8] |= 1 << (d.page % 8)
		if _, err := d.f.WriteAt(d.buf[:], directoryAt(d.pages)+d.page*indexPage); err != nil {
			return err
		}
	}
	d.page = page
	for i := int64(0); page >= 0 && i < indexPerPage; i++ {
		d.enter(page*indexPerPage+i, nil)
	}
	return nil
}

// mergeChunk resolves one chunk over the layers; nil if none says anything.
func mergeChunk(chunk int64, rows []meta.Layer, layers []*layer.Layer) ([]byte, error) {
	var slots [layer.ChunkBlocks]slot
	var states layer.Chunk
	decided := 0
	limit := rows[0].Size
	for i, lay := range layers {
		visible := min(min(limit, rows[i].Size)/blockSize-chunk*layer.ChunkBlocks, layer.ChunkBlocks)
		if visible <= 0 || decided == layer.ChunkBlocks {
			break
		}
		some, err := lay.LoadChunk(chunk, &states)
		if err != nil {
			return nil, err
		}
		if some {
			decided += fold(&slots, &states, int(visible), slot(i+1))
		}
		limit = min(limit, rows[i].Size, rows[i].Overlap)
	}
	if decided == 0 {
		return nil, nil
	}
	var record []byte
	for i := 0; i < len(slots); {
		n := 1
		for i+n < len(slots) && slots[i+n] == slots[i] {
			n++
		}
		packed := byte(slots[i] & slotLayer)
		if slots[i]&slotZero != 0 {
			packed |= indexZero
		}
		record = append(binary.LittleEndian.AppendUint16(record, uint16(n-1)), packed)
		i += n
	}
	return record, nil
}
