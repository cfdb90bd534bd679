//go:build ceph

package rbd

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/ceph/go-ceph/rados"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

const (
	// logPrefix begins the keys of the rows that name what each commit changed.
	logPrefix = "log/"
	// logKept is how many of them are kept: who has seen one of the last generations
	// reads only what is new.
	logKept = 400
	// pageRows is how many rows are read at once.
	pageRows = 1000
)

// catalogueLog keeps the catalogue in one object of the pool: eight bytes of data are
// the generation, the rows are its omap. A commit is one operation that the OSD carries
// out wholly, and only if the generation is as expected.
type catalogueLog struct {
	io     *rados.IOContext
	object string
}

func logKey(gen uint64) string { return fmt.Sprintf("%s%016x", logPrefix, gen) }

func genBytes(gen uint64) []byte { return binary.BigEndian.AppendUint64(nil, gen) }

// create makes the object, empty; one that is there is left alone.
func (l *catalogueLog) create() error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Create(rados.CreateExclusive)
	op.Write(genBytes(0), 0)
	if err := op.Operate(l.io, l.object, rados.OperationNoFlag); err != nil && opErrno(err) != syscall.EEXIST {
		return classify(fmt.Errorf("make the catalogue %s: %w", l.object, err))
	}
	return nil
}

// read reads the generation and up to a page of rows as of one instant.
func (l *catalogueLog) read(after, prefix string) (gen uint64, rows map[string][]byte, more bool, err error) {
	op := rados.CreateReadOp()
	defer op.Release()
	data := make([]byte, 8)
	op.Read(0, data)
	vals := op.GetOmapValues(after, prefix, pageRows)
	if err := op.Operate(l.io, l.object, rados.OperationNoFlag); err != nil {
		return 0, nil, false, l.failed(err)
	}
	rows = map[string][]byte{}
	for {
		kv, err := vals.Next()
		if err != nil {
			return 0, nil, false, l.failed(err)
		}
		if kv == nil {
			return binary.BigEndian.Uint64(data), rows, vals.More(), nil
		}
		rows[kv.Key] = kv.Value
	}
}

func (l *catalogueLog) failed(err error) error {
	if opErrno(err) == syscall.ENOENT {
		return fmt.Errorf("catalogue %s: %w", l.object, store.ErrNotFound)
	}
	return classify(fmt.Errorf("catalogue %s: %w", l.object, err))
}

// Load reads everything, again if it changed on the way.
func (l *catalogueLog) Load(ctx context.Context) (uint64, map[string][]byte, error) {
	for {
		gen, all, more, err := l.read("", "")
		if err != nil {
			return 0, nil, err
		}
		now := gen
		for more && now == gen {
			if err := ctx.Err(); err != nil {
				return 0, nil, err
			}
			var rows map[string][]byte
			if now, rows, more, err = l.read(last(all), ""); err != nil {
				return 0, nil, err
			}
			for k, v := range rows {
				all[k] = v
			}
		}
		if now == gen {
			for k := range all {
				if len(k) > len(logPrefix) && k[:len(logPrefix)] == logPrefix {
					delete(all, k)
				}
			}
			return gen, all, nil
		}
	}
}

func last(rows map[string][]byte) (key string) {
	for k := range rows {
		key = max(key, k)
	}
	return key
}

// Since reads what the commits after a generation changed.
func (l *catalogueLog) Since(ctx context.Context, gen uint64) (uint64, map[string][]byte, error) {
	for {
		now, log, more, err := l.read(logKey(gen), logPrefix)
		if err != nil || now == gen {
			return now, nil, err
		}
		if more || now < gen || uint64(len(log)) != now-gen {
			return 0, nil, meta.ErrStale
		}
		rows := map[string][]byte{}
		for _, raw := range log {
			var keys []string
			if err := json.Unmarshal(raw, &keys); err != nil {
				return 0, nil, meta.ErrStale
			}
			for _, k := range keys {
				rows[k] = nil
			}
		}
		same, err := l.fetch(now, rows)
		if err != nil || same {
			return now, rows, err
		}
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
	}
}

// fetch fills in the rows; it tells whether they are still those of a generation.
func (l *catalogueLog) fetch(gen uint64, rows map[string][]byte) (bool, error) {
	keys := make([]string, 0, len(rows))
	for k := range rows {
		keys = append(keys, k)
	}
	op := rados.CreateReadOp()
	defer op.Release()
	data := make([]byte, 8)
	op.Read(0, data)
	vals := op.GetOmapValuesByKeys(keys)
	if err := op.Operate(l.io, l.object, rados.OperationNoFlag); err != nil {
		return false, l.failed(err)
	}
	if binary.BigEndian.Uint64(data) != gen {
		return false, nil
	}
	for {
		kv, err := vals.Next()
		if err != nil {
			return false, l.failed(err)
		}
		if kv == nil {
			return true, nil
		}
		rows[kv.Key] = kv.Value
	}
}

// Commit writes rows if the generation is gen.
func (l *catalogueLog) Commit(_ context.Context, gen uint64, rows map[string][]byte) error {
	set, drop := map[string][]byte{}, []string{}
	keys := make([]string, 0, len(rows))
	for k, raw := range rows {
		keys = append(keys, k)
		if raw == nil {
			drop = append(drop, k)
		} else {
			set[k] = raw
		}
	}
	entry, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	set[logKey(gen+1)] = entry
	if gen >= logKept {
		drop = append(drop, logKey(gen-logKept))
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.CmpExt(genBytes(gen), 0)
	op.Write(genBytes(gen+1), 0)
	op.SetOmap(set)
	if len(drop) > 0 {
		op.RmOmapKeys(drop)
	}
	err = op.Operate(l.io, l.object, rados.OperationNoFlag)
	switch n := opErrno(err); {
	case err == nil:
		return nil
	case n >= maxErrno: // another generation; how far it agrees is in the number
		return meta.ErrStale
	case n == syscall.ENOENT:
		return fmt.Errorf("catalogue %s: %w", l.object, store.ErrNotFound)
	}
	return classify(fmt.Errorf("catalogue %s: %w", l.object, err))
}

// maxErrno is the first number that stands for a failed comparison.
const maxErrno = 4095

// opErrno is the number of a failed operation of several steps.
func opErrno(err error) syscall.Errno {
	if op := (rados.OperationError{}); errors.As(err, &op) && op.OpError != nil {
		return errno(op.OpError)
	}
	return errno(err)
}
