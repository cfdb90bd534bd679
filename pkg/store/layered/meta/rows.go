package meta

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// LayerID names a layer for ever; 0 means none.
type LayerID uint64

// Image is the row of an image.
type Image struct {
	ID store.ID `json:"id"`
	// Name is bound only while the image is not removed and not Scratch; others keep
	// it for display.
	Name      string       `json:"name"`
	Created   time.Time    `json:"created"`
	BlockSize int          `json:"blockSize"`
	Policy    store.Policy `json:"policy"`
	Limits    store.Limits `json:"limits,omitzero"`
	Format    store.Format `json:"format,omitempty"`
	Digest    string       `json:"digest,omitempty"`
	// Origin is the snapshot or image it was cloned from, "" for none.
	Origin store.ID `json:"origin,omitempty"`
	// Overlap is how many bytes of the parent the image may show, as of the clone and
	// every shrink since.
	Overlap int64 `json:"overlap,omitempty"`
	// Head is the writable layer, 0 once removed.
	Head LayerID `json:"head,omitempty"`
	// Root is the bottom own layer.
	Root LayerID `json:"root,omitempty"`
	// Removed makes the row a tombstone.
	Removed bool `json:"removed,omitempty"`
	// Scratch makes it the private head of a publication of Origin, whose Target it is.
	// It comes and goes with the publication.
	Scratch bool `json:"scratch,omitempty"`
	// Poison is why the image is read-only for ever, "" if it is not.
	Poison string `json:"poison,omitempty"`
	// Epoch is the last publication epoch handed out.
	Epoch uint64 `json:"epoch,omitempty"`
}

// Snapshot is the row of a named snapshot.
type Snapshot struct {
	ID store.ID `json:"id"`
	// Image is the owner; its row outlives it as a tombstone.
	Image store.ID `json:"image"`
	Name  string   `json:"name"`
	// Layer is the sealed layer whose view the snapshot is.
	Layer LayerID `json:"layer"`
	// Overlap is the image's at the time of the snapshot.
	Overlap int64     `json:"overlap,omitempty"`
	Created time.Time `json:"created"`
	Digest  string    `json:"digest,omitempty"`
	// Format is the image's at the time of the snapshot.
	Format store.Format `json:"format,omitempty"`
}

// named tells whether the image's name is bound.
func (i Image) named() bool { return !i.Removed && !i.Scratch }

// Layer is the row of a layer.
type Layer struct {
	ID LayerID
	// Image is the owner.
	Image store.ID
	// Parent is the layer below, 0 for none.
	Parent LayerID
	// Overlap is how many bytes of the parent show through, Size how many the layer
	// describes. Overlap <= Size.
	Overlap, Size int64
	// Sealed layers never change what they show.
	Sealed bool
	// Data counts data blocks: exact once sealed, 0 for a head.
	Data int64
	// Merging is the other side of a merge whose intent is taken, 0 for none. A
	// layer with it set takes no new child and no new snapshot.
	Merging LayerID
	// Index is the top layer of the merged index that covers this one, 0 for none.
	Index LayerID
}

// Publication is the row of a publication, keyed by object and node.
type Publication struct{ store.Publication }

// decodePublication reads a row, also one from before there were kinds of access.
func decodePublication(key, content []byte) (Publication, error) {
	var row struct {
		store.Publication
		ReadOnly bool `json:"readOnly"`
	}
	err := decodeJSON(bPubs, key, content, &row)
	p := row.Publication
	if p.Access == "" {
		p.Access, p.Target = store.AccessWrite, p.ID
		if row.ReadOnly {
			p.Access = store.AccessRead
		}
	}
	return Publication{p}, err
}

// Intent is a change in several steps; start-up finishes or undoes it.
type Intent struct {
	// ID is assigned by PutIntent and rises.
	ID    uint64   `json:"id"`
	Kind  string   `json:"kind"`
	Layer LayerID  `json:"layer,omitempty"`
	Other LayerID  `json:"other,omitempty"`
	Image store.ID `json:"image,omitempty"`
	Size  int64    `json:"size,omitempty"`
}

// Job is the opaque row of a background job.
type Job struct {
	ID  string
	Row []byte
}

const (
	sumSize       = 4
	layerFixed    = 49
	flagSealed    = 1 << 0
	layerFlagsAll = flagSealed
)

func checksum(key, content []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, content)
}

// sealRow prefixes content with its checksum.
func sealRow(key, content []byte) []byte {
	row := binary.BigEndian.AppendUint32(make([]byte, 0, sumSize+len(content)), checksum(key, content))
	return append(row, content...)
}

// openRow checks a row and returns its content, which aliases the row.
func openRow(b bucket, key, row []byte) ([]byte, error) {
	if len(row) < sumSize || binary.BigEndian.Uint32(row) != checksum(key, row[sumSize:]) {
		return nil, fmt.Errorf("catalogue: row %x in %s does not match its checksum: %w", key, b, store.ErrCorrupt)
	}
	return row[sumSize:], nil
}

func encodeJSON(v any) ([]byte, error) {
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("catalogue: encode %T: %w", v, err)
	}
	return out, nil
}

func decodeJSON(b bucket, key, content []byte, v any) error {
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("catalogue: row %x in %s: %v: %w", key, b, err, store.ErrCorrupt)
	}
	return nil
}

func encodeLayer(l Layer) []byte {
	c := make([]byte, 0, layerFixed+len(l.Image))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Parent))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Overlap))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Size))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Data))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Merging))
	c = binary.BigEndian.AppendUint64(c, uint64(l.Index))
	var flags byte
	if l.Sealed {
		flags |= flagSealed
	}
	return append(append(c, flags), l.Image...)
}

func decodeLayer(id LayerID, c []byte) (Layer, error) {
	if len(c) <= layerFixed || c[48]&^layerFlagsAll != 0 {
		return Layer{}, fmt.Errorf("catalogue: row of layer %d is malformed: %w", id, store.ErrCorrupt)
	}
	return Layer{
		ID:      id,
		Parent:  LayerID(binary.BigEndian.Uint64(c)),
		Overlap: int64(binary.BigEndian.Uint64(c[8:])),
		Size:    int64(binary.BigEndian.Uint64(c[16:])),
		Data:    int64(binary.BigEndian.Uint64(c[24:])),
		Merging: LayerID(binary.BigEndian.Uint64(c[32:])),
		Index:   LayerID(binary.BigEndian.Uint64(c[40:])),
		Sealed:  c[48]&flagSealed != 0,
		Image:   store.ID(c[layerFixed:]),
	}, nil
}
