package meta

import (
	"encoding/binary"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// bucket is one top-level bucket of the file. The order is part of no format.
type bucket int

const (
	bFormat bucket = iota
	bState
	bImages
	bNames
	bRemoved
	bRoots
	bSnapshots
	bSnapNames
	bSnapLayers
	bLayers
	bChildren
	bOwnLayers
	bIntents
	bPubs
	bJobs
	bMarks
	bucketCount
)

func (b bucket) String() string {
	return [bucketCount]string{"format", "state", "images", "names", "removed", "roots", "snapshots", "snapnames",
		"snaplayers", "layers", "children", "ownlayers", "intents", "pubs", "jobs", "marks"}[b]
}

const (
	keyVersion  = "version"
	keyUUID     = "uuid"
	keyNext     = "next"
	keyReserved = "reserved"
)

// maxKey is the longest part of a key that a caller supplies. It keeps composite
// keys far below the limit of the file format and their length in 16 bits.
const maxKey = 4096

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func layerKey(id LayerID) []byte { return u64(uint64(id)) }

// scopedPrefix is the common start of all keys below one object; the length keeps
// one id from being the prefix of another.
func scopedPrefix(id store.ID) []byte {
	k := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(id)+36), uint16(len(id)))
	return append(k, id...)
}

func scopedKey(id store.ID, rest string) []byte {
	return append(scopedPrefix(id), rest...)
}

func ownLayerKey(image store.ID, layer LayerID) []byte {
	return binary.BigEndian.AppendUint64(scopedPrefix(image), uint64(layer))
}

func childKey(parent, child LayerID) []byte {
	return binary.BigEndian.AppendUint64(layerKey(parent), uint64(child))
}

func snapLayerKey(layer LayerID, snap store.ID) []byte {
	return append(layerKey(layer), snap...)
}

// splitScoped is the inverse of scopedKey.
func splitScoped(k []byte) (id store.ID, rest []byte, err error) {
	if len(k) < 2 || len(k) < 2+int(binary.BigEndian.Uint16(k)) {
		return "", nil, damagedKey(k)
	}
	n := 2 + int(binary.BigEndian.Uint16(k))
	return store.ID(k[2:n]), k[n:], nil
}

// lastLayer reads the layer id that ends a key.
func lastLayer(k []byte) (LayerID, error) {
	if len(k) < 8 {
		return 0, damagedKey(k)
	}
	return LayerID(binary.BigEndian.Uint64(k[len(k)-8:])), nil
}

func damagedKey(k []byte) error {
	return fmt.Errorf("catalogue: key %x is malformed: %w", k, store.ErrCorrupt)
}

// checkKey refuses what cannot be a key part.
func checkKey(what, s string) error {
	if s == "" || len(s) > maxKey {
		return fmt.Errorf("catalogue: %s of %d bytes, want 1 to %d: %w", what, len(s), maxKey, store.ErrInvalid)
	}
	return nil
}
