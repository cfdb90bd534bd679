package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/strata-csi/strata/pkg/store"
)

// The file format's own code trusts what it reads: a page that points to itself
// sends it into endless recursion, a wrong count makes it read beyond the file. So
// the structure that the newest header leads to is walked once before that code sees
// the file. The walk reads every page in use, about a gigabyte a second from the
// page cache.

const (
	pageHeader   = 16
	elementSize  = 16
	metaSize     = 64
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	leafBucket   = 0x01
	bucketHeader = 16
	manyFree     = 0xFFFF // the real count is in the first entry
	noFreelist   = ^uint64(0)
	firstPage    = 2 // 0 and 1 are headers
	deepest      = 64
)

// header is one of the two at the start of the file; the newer valid one counts.
type header struct {
	pageSize, root, freelist, high, txid uint64
}

type inspector struct {
	f     io.ReaderAt
	head  header
	used  []uint64 // a bit for every page reached
	depth int      // of pages between the root and here
}

// inspect walks the structure of a file of that size. An error is store.ErrCorrupt
// or of reading.
func inspect(f io.ReaderAt, size int64) error {
	if size == 0 {
		return fmt.Errorf("the file is empty: %w", store.ErrCorrupt)
	}
	h, ok, err := newestHeader(f, size)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("both headers are damaged, or it is no catalogue: %w", store.ErrCorrupt)
	}
	if h.high < firstPage || h.high > uint64(size)/h.pageSize {
		return fmt.Errorf("the file has %d bytes, its header says %d pages of %d: %w", size, h.high, h.pageSize, store.ErrCorrupt)
	}
	in := &inspector{f: f, head: h, used: make([]uint64, h.high/64+1)}
	if err := in.tree(h.root, keyRange{}); err != nil {
		return err
	}
	return in.freelist()
}

// newestHeader finds the valid header with the highest transaction number. The
// second lies one page into the file, whatever the page size is.
func newestHeader(f io.ReaderAt, size int64) (best header, found bool, err error) {
	for at := int64(0); at+pageHeader+metaSize <= size && at <= 16<<20; at = max(1024, 2*at) {
		var b [pageHeader + metaSize]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return best, false, fmt.Errorf("read header: %w", err)
		}
		h, ok := parseHeader(b[pageHeader:])
		if ok && (at == 0 || uint64(at) == h.pageSize) && (!found || h.txid > best.txid) {
			best, found = h, true
		}
	}
	return best, found, nil
}

func parseHeader(b []byte) (h header, ok bool) {
	sum := fnv.New64a()
	sum.Write(b[:56]) // never fails
	e := binary.NativeEndian
	if e.Uint32(b) != metaMagic || e.Uint32(b[4:]) != metaVersion || e.Uint64(b[56:]) != sum.Sum64() {
		return h, false
	}
	h = header{pageSize: uint64(e.Uint32(b[8:])), root: e.Uint64(b[16:]), freelist: e.Uint64(b[32:]), high: e.Uint64(b[40:]), txid: e.Uint64(b[48:])}
	return h, h.pageSize >= 1024 && h.pageSize <= 16<<20 && h.pageSize&(h.pageSize-1) == 0
}

// claim marks a page and those that belong to it as reached, each only once.
func (in *inspector) claim(id, more uint64) error {
	if id < firstPage || id >= in.head.high || more >= in.head.high-id {
		return fmt.Errorf("page %d with %d more is outside the %d pages: %w", id, more, in.head.high, store.ErrCorrupt)
	}
	for p := id; p <= id+more; p++ {
		if in.used[p/64]&(1<<(p%64)) != 0 {
			return fmt.Errorf("page %d is used twice: %w", p, store.ErrCorrupt)
		}
		in.used[p/64] |= 1 << (p % 64)
	}
	return nil
}

// page reads a page with those that belong to it and checks its header.
func (in *inspector) page(id uint64) ([]byte, error) {
	var h [pageHeader]byte
	if id < firstPage || id >= in.head.high {
		return nil, in.claim(id, 0)
	}
	if _, err := in.f.ReadAt(h[:], int64(id*in.head.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if own := binary.NativeEndian.Uint64(h[:]); own != id {
		return nil, fmt.Errorf("page %d says it is page %d: %w", id, own, store.ErrCorrupt)
	}
	more := uint64(binary.NativeEndian.Uint32(h[12:]))
	if err := in.claim(id, more); err != nil {
		return nil, err
	}
	b := make([]byte, (more+1)*in.head.pageSize)
	if _, err := in.f.ReadAt(b, int64(id*in.head.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return b, nil
}

// keyRange is where the keys of a page must lie: from low on and before high, nil for
// no bound. A key outside would never be found.
type keyRange struct{ low, high []byte }

// next checks key number i of a page, which follows prev.
func (r keyRange) next(i int, prev, key []byte) error {
	if bytes.Compare(key, r.low) < 0 || r.high != nil && bytes.Compare(key, r.high) >= 0 || i > 0 && bytes.Compare(key, prev) <= 0 {
		return fmt.Errorf("element %d is out of order: %w", i, store.ErrCorrupt)
	}
	return nil
}

// tree walks a page and all below it.
func (in *inspector) tree(id uint64, keys keyRange) error {
	if in.depth++; in.depth > deepest {
		return fmt.Errorf("page %d: more than %d levels: %w", id, deepest, store.ErrCorrupt)
	}
	defer func() { in.depth-- }()
	b, err := in.page(id)
	if err != nil {
		return err
	}
	switch pageFlags(b) {
	case flagBranch:
		err = in.branch(b, keys)
	case flagLeaf:
		err = in.leaf(b, keys, true)
	default:
		err = fmt.Errorf("neither branch nor leaf: %w", store.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func pageFlags(b []byte) uint16 { return binary.NativeEndian.Uint16(b[8:]) }
func pageCount(b []byte) int    { return int(binary.NativeEndian.Uint16(b[10:])) }

// part is what element i holds at pos bytes from its start.
func part(b []byte, i int, pos, length uint64) ([]byte, error) {
	start := uint64(pageHeader+i*elementSize) + pos
	if end := start + length; start > uint64(len(b)) || end > uint64(len(b)) {
		return nil, fmt.Errorf("element %d reaches beyond its page: %w", i, store.ErrCorrupt)
	}
	return b[start : start+length], nil
}

func (in *inspector) branch(b []byte, keys keyRange) error {
	n := pageCount(b)
	if n == 0 || pageHeader+n*elementSize > len(b) {
		return fmt.Errorf("a branch of %d children: %w", n, store.ErrCorrupt)
	}
	firsts := make([][]byte, n+1)
	firsts[n] = keys.high
	for i := range n {
		el := b[pageHeader+i*elementSize:]
		key, err := part(b, i, uint64(binary.NativeEndian.Uint32(el)), uint64(binary.NativeEndian.Uint32(el[4:])))
		if err != nil {
			return err
		}
		if err := keys.next(i, firsts[max(i-1, 0)], key); err != nil {
			return err
		}
		firsts[i] = key
	}
	for i := range n {
		child := binary.NativeEndian.Uint64(b[pageHeader+i*elementSize+8:])
		if err := in.tree(child, keyRange{firsts[i], firsts[i+1]}); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the elements of a leaf page, or of a small bucket kept inside a value,
// which holds no buckets itself.
func (in *inspector) leaf(b []byte, keys keyRange, buckets bool) error {
	n := pageCount(b)
	if pageHeader+n*elementSize > len(b) {
		return fmt.Errorf("%d elements do not fit: %w", n, store.ErrCorrupt)
	}
	var prev []byte
	for i := range n {
		el := b[pageHeader+i*elementSize:]
		e := binary.NativeEndian
		flags, pos, ksize, vsize := e.Uint32(el), uint64(e.Uint32(el[4:])), uint64(e.Uint32(el[8:])), uint64(e.Uint32(el[12:]))
		key, err := part(b, i, pos, ksize)
		if err != nil {
			return err
		}
		value, err := part(b, i, pos+ksize, vsize)
		if err != nil {
			return err
		}
		if err := keys.next(i, prev, key); err != nil {
			return err
		}
		prev = key
		switch {
		case flags == 0:
		case flags == leafBucket && buckets:
			if err := in.bucket(value); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		default:
			return fmt.Errorf("element %d has unknown flags %#x: %w", i, flags, store.ErrCorrupt)
		}
	}
	return nil
}

func (in *inspector) bucket(value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("its header is cut off: %w", store.ErrCorrupt)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return in.tree(root, keyRange{})
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || pageFlags(inline) != flagLeaf {
		return fmt.Errorf("its content is no leaf: %w", store.ErrCorrupt)
	}
	return in.leaf(inline, keyRange{}, false)
}

// freelist checks that no page is both free and in use: the next commit would
// overwrite it.
func (in *inspector) freelist() error {
	id := in.head.freelist
	if id == noFreelist {
		return nil
	}
	b, err := in.page(id)
	if err != nil {
		return err
	}
	if pageFlags(b) != flagFreelist {
		return fmt.Errorf("page %d is no list of free pages: %w", id, store.ErrCorrupt)
	}
	n, list := uint64(pageCount(b)), b[pageHeader:]
	if n == manyFree {
		n, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if n > uint64(len(list)/8) {
		return fmt.Errorf("page %d: %d free pages do not fit: %w", id, n, store.ErrCorrupt)
	}
	for i := range n {
		if err := in.claim(binary.NativeEndian.Uint64(list[i*8:]), 0); err != nil {
			return fmt.Errorf("page %d, list of free pages: %w", id, err)
		}
	}
	return nil
}
