package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/strata-csi/strata/pkg/store"
)

// Tx is one transaction. It belongs to the goroutine it was given to and is not
// valid after the function it was given to has returned. What it returns are
// copies.
type Tx struct {
	b       *bolt.Tx
	buckets [bucketCount]*bolt.Bucket
	depths  *depths
	dirty   bool
	ended   bool
	// links has what the clone links led to that were written anew.
	links map[store.ID]store.ID
}

// guard turns a panic of the file format's code, which it raises on damage, into an
// error. Only calls into that code run under it.
func guard(op string, b bucket, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("catalogue: %s %s: the file is damaged (%v): %w", op, b, r, store.ErrCorrupt)
	}
}

func (t *Tx) bucket(b bucket) (*bolt.Bucket, error) {
	if t.ended {
		return nil, fmt.Errorf("catalogue: transaction has ended: %w", store.ErrClosed)
	}
	if t.buckets[b] == nil {
		if t.buckets[b] = t.b.Bucket([]byte(b.String())); t.buckets[b] == nil {
			return nil, fmt.Errorf("catalogue: bucket %s is missing: %w", b, store.ErrCorrupt)
		}
	}
	return t.buckets[b], nil
}

// get returns nil for a missing key. The value is valid until the next change.
func (t *Tx) get(b bucket, key []byte) (value []byte, err error) {
	defer guard("read", b, &err)
	k, err := t.bucket(b)
	if err != nil {
		return nil, err
	}
	return k.Get(key), nil
}

func (t *Tx) has(b bucket, key []byte) (bool, error) {
	v, err := t.get(b, key)
	return v != nil, err
}

func (t *Tx) put(b bucket, key, value []byte) (err error) {
	defer guard("write", b, &err)
	k, err := t.writable(b)
	if err != nil {
		return err
	}
	if err := k.Put(key, value); err != nil {
		return fmt.Errorf("catalogue: write %x in %s: %w", key, b, err)
	}
	return nil
}

func (t *Tx) del(b bucket, key []byte) (err error) {
	defer guard("delete", b, &err)
	k, err := t.writable(b)
	if err != nil {
		return err
	}
	if err := k.Delete(key); err != nil {
		return fmt.Errorf("catalogue: delete %x in %s: %w", key, b, err)
	}
	return nil
}

func (t *Tx) writable(b bucket) (*bolt.Bucket, error) {
	k, err := t.bucket(b)
	if err != nil {
		return nil, err
	}
	if !t.b.Writable() {
		return nil, fmt.Errorf("catalogue: write to %s in a read-only transaction: %w", b, store.ErrReadOnly)
	}
	t.dirty = true
	return k, nil
}

// scan calls fn for every key that starts with prefix, in order, until fn returns
// false. fn must not change the bucket and must copy what it keeps.
func (t *Tx) scan(b bucket, prefix []byte, fn func(k, v []byte) (more bool, err error)) (err error) {
	defer guard("scan", b, &err)
	bk, err := t.bucket(b)
	if err != nil {
		return err
	}
	c := bk.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if more, err := fn(k, v); err != nil || !more {
			return err
		}
	}
	return nil
}

// counter reads a bucket's sequence.
func (t *Tx) counter(b bucket) (n uint64, err error) {
	defer guard("read", b, &err)
	k, err := t.bucket(b)
	if err != nil {
		return 0, err
	}
	return k.Sequence(), nil
}

// addCounter moves a bucket's sequence and returns the new value.
func (t *Tx) addCounter(b bucket, by int) (n uint64, err error) {
	defer guard("count", b, &err)
	k, err := t.writable(b)
	if err != nil {
		return 0, err
	}
	n = k.Sequence() + uint64(by)
	if err := k.SetSequence(n); err != nil {
		return 0, fmt.Errorf("catalogue: count %s: %w", b, err)
	}
	return n, nil
}

// getRow returns the content of a row, nil if there is none.
func (t *Tx) getRow(b bucket, key []byte) ([]byte, error) {
	row, err := t.get(b, key)
	if err != nil || row == nil {
		return nil, err
	}
	return openRow(b, key, row)
}

func (t *Tx) putRow(b bucket, key, content []byte) error {
	return t.put(b, key, sealRow(key, content))
}

// getJSON fills v from a row and tells whether there is one.
func (t *Tx) getJSON(b bucket, key []byte, v any) (bool, error) {
	content, err := t.getRow(b, key)
	if err != nil || content == nil {
		return false, err
	}
	return true, decodeJSON(b, key, content, v)
}

func (t *Tx) putJSON(b bucket, key []byte, v any) error {
	content, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return t.putRow(b, key, content)
}

// getLayerID reads an 8-byte value; 0 if there is none.
func (t *Tx) getLayerID(b bucket, key []byte) (LayerID, error) {
	v, err := t.get(b, key)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("catalogue: value of %x in %s is malformed: %w", key, b, store.ErrCorrupt)
	}
	return LayerID(binary.BigEndian.Uint64(v)), nil
}

func notFound(kind string, id any) error {
	return fmt.Errorf("%s %v: %w", kind, id, store.ErrNotFound)
}

// dangling reports an index entry that points to no row.
func dangling(index, key, kind, id string) error {
	return fmt.Errorf("catalogue: %s %q points to %s %s, which is not there or not it: %w", index, key, kind, id, store.ErrCorrupt)
}
