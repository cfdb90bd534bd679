package layered

import (
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
// The file, all numbers little-endian:
//
//	offset        size  content
//	0             8     magic "strataIX"
//	8             4     number of layers n, 1 to indexSpan
//	12            4     CRC32C of bytes 0 to 12 and of the layer ids
//	16            8n    layer ids, top first
//	4096          16c   directory, one entry a chunk: offset (8), length (4),
//	                    CRC32C of the record and its chunk number (4); zero if
//	                    no layer says anything of the chunk
//	4096+16c ..         records: runs of a length less one (2) and a slot (1):
//	                    0 nowhere, else 1 + position of the layer, with 128 set
//	                    for zero
const (
	indexMagic   = "strataIX"
	indexSuffix  = ".index"
	indexSpan    = 64
	indexDir     = 4096
	indexEntry   = 16
	indexZero    = 0x80
	indexRunSize = 3
)

// mergedIndex is an open index. It is shared by nothing and safe for concurrent use.
type mergedIndex struct {
	file vfs.File
	top  meta.LayerID
	n    int
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

func indexHeader(ids []meta.LayerID) []byte {
	h := append([]byte(indexMagic), 0, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(h[8:], uint32(len(ids)))
	for _, id := range ids {
		h = binary.LittleEndian.AppendUint64(h, uint64(id))
	}
	binary.LittleEndian.PutUint32(h[12:], castagnoli(h[:12], h[16:]))
	return h
}

// openIndex opens the index over exactly these layers.
func openIndex(env *layer.Env, ids []meta.LayerID) (*mergedIndex, error) {
	f, err := env.FS.OpenFile(indexPath(env, ids[0]), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	want := indexHeader(ids)
	have := make([]byte, len(want))
	if _, err := f.ReadAt(have, 0); err != nil || string(have) != string(want) {
		f.Close()
		return nil, fmt.Errorf("index of layer %d does not fit its layers: %w", ids[0], store.ErrCorrupt)
	}
	return &mergedIndex{file: f, top: ids[0], n: len(ids)}, nil
}

// load enters what the index knows of a chunk where nothing above decided, and
// returns how many blocks it decided. links are the index's layers in the chain.
func (x *mergedIndex) load(chunk int64, slots *[layer.ChunkBlocks]slot, visible int, links []link) (int, error) {
	var entry [indexEntry]byte
	if _, err := x.file.ReadAt(entry[:], indexDir+chunk*indexEntry); err != nil {
		return 0, err
	}
	length := int(binary.LittleEndian.Uint32(entry[8:]))
	if length == 0 {
		return 0, nil
	}
	bad := fmt.Errorf("index of layer %d, chunk %d: %w", x.top, chunk, store.ErrCorrupt)
	if length%indexRunSize != 0 || length > indexRunSize*layer.ChunkBlocks {
		return 0, bad
	}
	record := make([]byte, length)
	if _, err := x.file.ReadAt(record, int64(binary.LittleEndian.Uint64(entry[:]))); err != nil {
		return 0, err
	}
	if indexSum(record, chunk) != binary.LittleEndian.Uint32(entry[12:]) {
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

func indexSum(record []byte, chunk int64) uint32 {
	return castagnoli(record, binary.LittleEndian.AppendUint64(nil, uint64(chunk)))
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

func fillIndex(f vfs.File, ids []meta.LayerID, rows []meta.Layer, layers []*layer.Layer) error {
	if _, err := f.WriteAt(indexHeader(ids), 0); err != nil {
		return err
	}
	chunks := (rows[0].Size + chunkBytes - 1) / chunkBytes
	at := indexDir + chunks*indexEntry
	if err := f.Truncate(at); err != nil {
		return err
	}
	for chunk := int64(0); ; chunk++ {
		first := chunks
		for _, lay := range layers {
			next, some, err := lay.NextChunk(chunk)
			if err != nil {
				return err
			}
			if some {
				first = min(first, next)
			}
		}
		if chunk = first; chunk >= chunks {
			return nil
		}
		record, err := mergeChunk(chunk, rows, layers)
		if err != nil {
			return err
		}
		if record == nil {
			continue
		}
		var entry [indexEntry]byte
		binary.LittleEndian.PutUint64(entry[:], uint64(at))
		binary.LittleEndian.PutUint32(entry[8:], uint32(len(record)))
		binary.LittleEndian.PutUint32(entry[12:], indexSum(record, chunk))
		if _, err := f.WriteAt(record, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(entry[:], indexDir+chunk*indexEntry); err != nil {
			return err
		}
		at += int64(len(record))
	}
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
