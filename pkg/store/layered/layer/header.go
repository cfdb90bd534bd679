package layer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	headerSize    = 4096
	headerMagic   = "strataLM"
	formatVersion = 1
	headerFixed   = 112

	maxIdentity = 2048
	maxCacheID  = 512
	maxPoison   = 512

	flagClean = 1 << 0
)

// Identity says what a layer is; a catalogue can be rebuilt from the identities
// of all layers. It is kept in the header as at most 2 KiB of JSON.
type Identity struct {
	// ID is the layer's number. It never changes.
	ID uint64 `json:"id"`
	// Image is the image the layer belongs to.
	Image string `json:"image,omitempty"`
	// Parent is the layer below, 0 for none.
	Parent uint64 `json:"parent,omitempty"`
	// Overlap is how many bytes of the parent are visible.
	Overlap int64 `json:"overlap,omitempty"`
	// Size of the image when the layer was made or last rewritten, in bytes.
	Size int64 `json:"size,omitempty"`
	// Sealed: what the layer shows never changes.
	Sealed bool `json:"sealed,omitempty"`
	// Poison is why the layer is read-only, "" if it is not. Only Layer.Poison
	// and failed syncs set it.
	Poison string `json:"-"`
	// Extra belongs to the caller.
	Extra json.RawMessage `json:"extra,omitempty"`
}

// header is one header slot, decoded. Its write is the commit point of a
// checkpoint: page slots and journal generations count only as far as it says.
type header struct {
	seq      uint64 // rises with every header written
	gen      uint64 // oldest live journal generation; gen and gen+1 are replayed
	firstSeq uint64 // seq of the first record of gen
	ckptSeq  uint64 // pages hold the effect of all records up to here
	endSeq   uint64 // clean: the last record that changed the map
	data     int64  // blocks in state Data as of ckptSeq
	zero     int64  // blocks in state Zero as of ckptSeq
	half     int64  // bytes of one journal half
	mapSize  int64  // the map file is at least this long
	dataSize int64  // the data file is at least this long
	clean    bool   // nothing was unflushed when this was written
	cacheID  string // page cache that the live generations were appended through
	id       Identity
}

func (h *header) encode() ([]byte, error) {
	blob, err := json.Marshal(h.id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("encode identity: %v: %w", err, store.ErrInvalid)
	case len(blob) > maxIdentity:
		return nil, fmt.Errorf("identity is %d bytes long, at most %d fit: %w", len(blob), maxIdentity, store.ErrInvalid)
	case len(h.cacheID) > maxCacheID:
		return nil, fmt.Errorf("cache id is %d bytes long, at most %d fit: %w", len(h.cacheID), maxCacheID, store.ErrInvalid)
	case len(h.id.Poison) > maxPoison:
		return nil, fmt.Errorf("poison reason is longer than %d bytes: %w", maxPoison, store.ErrInvalid)
	}
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	le := binary.LittleEndian
	le.PutUint32(b[12:], formatVersion)
	for i, v := range [...]uint64{h.seq, h.id.ID, h.gen, h.firstSeq, h.ckptSeq, h.endSeq, uint64(h.data), uint64(h.zero)} {
		le.PutUint64(b[16+8*i:], v)
	}
	le.PutUint32(b[80:], uint32(h.half))
	if h.clean {
		le.PutUint32(b[84:], flagClean)
	}
	le.PutUint64(b[88:], uint64(h.mapSize))
	le.PutUint64(b[96:], uint64(h.dataSize))
	tail := b[headerFixed:headerFixed]
	for i, s := range [...]string{h.cacheID, h.id.Poison, string(blob)} {
		le.PutUint16(b[104+2*i:], uint16(len(s)))
		tail = append(tail, s...)
	}
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli()))
	return b, nil
}

// decodeHeader reads one header slot. blank is true for a slot never written.
func decodeHeader(b []byte) (h header, blank bool, err error) {
	bad := func(why string) (header, bool, error) {
		return header{}, false, fmt.Errorf("%s: %w", why, store.ErrCorrupt)
	}
	le := binary.LittleEndian
	switch {
	case allZero(b):
		return header{}, true, nil
	case len(b) != headerSize || string(b[:8]) != headerMagic:
		return bad("not a strata map file")
	case crc32.Checksum(b[12:], castagnoli()) != le.Uint32(b[8:]):
		return bad("checksum does not match")
	case le.Uint32(b[12:]) != formatVersion:
		return header{}, false, fmt.Errorf("map file has format version %d, this program knows %d: %w",
			le.Uint32(b[12:]), formatVersion, store.ErrUnsupported)
	}
	u := func(off int) uint64 { return le.Uint64(b[off:]) }
	h = header{seq: u(16), gen: u(32), firstSeq: u(40), ckptSeq: u(48), endSeq: u(56),
		data: int64(u(64)), zero: int64(u(72)), half: int64(le.Uint32(b[80:])),
		clean:   le.Uint32(b[84:])&flagClean != 0,
		mapSize: int64(u(88)), dataSize: int64(u(96))}
	var parts [3]string
	at := headerFixed
	for i := range parts {
		n := int(le.Uint16(b[104+2*i:]))
		if at+n > headerSize {
			return bad("field lengths exceed the slot")
		}
		parts[i] = string(b[at : at+n])
		at += n
	}
	if err := json.Unmarshal([]byte(parts[2]), &h.id); err != nil {
		return bad("identity is no JSON: " + err.Error())
	}
	h.cacheID, h.id.Poison = parts[0], parts[1]
	if why := h.implausible(u(24)); why != "" {
		return bad(why)
	}
	return h, false, nil
}

// implausible names a field that no header of this version has.
func (h *header) implausible(id uint64) string {
	switch {
	case h.id.ID != id:
		return "layer number and identity disagree"
	case h.half < minHalf || h.half > maxHalf || h.half%pageSectors != 0:
		return fmt.Sprintf("journal half of %d bytes", h.half)
	case h.gen == 0 || h.firstSeq == 0 || h.firstSeq > h.ckptSeq+1:
		return "journal positions disagree"
	case h.data < 0 || h.zero < 0 || h.mapSize < 0 || h.dataSize < 0:
		return "negative size or count"
	case h.gen >= 1<<32-2:
		return "generations exhausted"
	}
	return ""
}

// chooseHeader picks the newer of two slots. A torn write leaves one of them
// intact, because a slot is written only when the other is durable.
func chooseHeader(a, b []byte) (h header, slot int, err error) {
	ha, blankA, errA := decodeHeader(a)
	hb, blankB, errB := decodeHeader(b)
	okA, okB := errA == nil && !blankA, errB == nil && !blankB
	switch {
	case okA && (!okB || ha.seq > hb.seq):
		return ha, 0, nil
	case okB:
		return hb, 1, nil
	case errA != nil:
		return header{}, 0, fmt.Errorf("header slot 0: %w", errA)
	case errB != nil:
		return header{}, 0, fmt.Errorf("header slot 1: %w", errB)
	}
	return header{}, 0, fmt.Errorf("header: both slots are empty: %w", store.ErrCorrupt)
}

func allZero(b []byte) bool {
	return len(bytes.TrimLeft(b, "\x00")) == 0
}
