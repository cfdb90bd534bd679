//go:build ceph

package rbd

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"

	"github.com/ceph/go-ceph/rados"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

const (
	// markKey is the image metadata that says which installation has adopted an image:
	// installation/id. The id tells it from a mark that a clone has copied.
	markKey = "strata.owner"
	// metadataPrefix begins the keys of metadata in an image's header.
	metadataPrefix = "metadata_"
	// markTries is how often a header may change while it is being marked.
	markTries = 20
)

func (s *Store) markOf(id string) string { return s.o.Installation + "/" + id }

// markOwner is the installation that a mark names, "" if it is of another image.
func markOwner(mark, id string) string {
	owner, of, _ := strings.Cut(mark, "/")
	if of != id {
		return ""
	}
	return owner
}

// mark says in an image's header that the installation has it, unless another one does.
func (s *Store) mark(ctx context.Context, id string) error {
	return s.remark(ctx, id, func(op *rados.WriteOp, now string) (bool, error) {
		if owner := markOwner(now, id); owner != "" && owner != s.o.Installation {
			return false, marked(owner)
		}
		op.SetOmap(map[string][]byte{metadataPrefix + markKey: []byte(s.markOf(id))})
		return now != s.markOf(id), nil
	})
}

// unmark takes the installation's mark away, if it is there.
func (s *Store) unmark(ctx context.Context, id string) error {
	err := s.remark(ctx, id, func(op *rados.WriteOp, now string) (bool, error) {
		op.RmOmapKeys([]string{metadataPrefix + markKey})
		return now == s.markOf(id), nil
	})
	if gone(err) {
		return nil // the image with its header
	}
	return err
}

// marked refuses an image that another installation has.
func marked(owner string) error {
	return fmt.Errorf("the installation %s of strata has it; if that is no more, remove the image's metadata %s: %w", owner, markKey, store.ErrConflict)
}

// remark changes the mark in a header, if that still is as change has seen it.
func (s *Store) remark(ctx context.Context, id string, change func(op *rados.WriteOp, now string) (bool, error)) error {
	io, err := s.c.conn.OpenIOContext(s.o.Pool) // of its own: versions are told of the last operation
	if err != nil {
		return err
	}
	defer io.Destroy()
	io.SetNamespace(s.o.Namespace)
	for try := 0; ; try++ {
		err := remarkOnce(io, "rbd_header."+id, change)
		if n := opErrno(err); n != syscall.EOVERFLOW && n != syscall.ERANGE || try == markTries {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func remarkOnce(io *rados.IOContext, header string, change func(*rados.WriteOp, string) (bool, error)) error {
	values, err := omapValues(io, header, metadataPrefix+markKey)
	if err != nil {
		return err
	}
	version, err := io.GetLastVersion()
	if err != nil {
		return err
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.AssertVersion(version)
	due, err := change(op, string(values[metadataPrefix+markKey]))
	if err != nil || !due {
		return err
	}
	if err := op.Operate(io, header, rados.OperationNoFlag); err != nil {
		return codedError{opErrno(err), "change the mark in " + header}
	}
	return nil
}

// omapValues reads some values of an object.
func omapValues(io *rados.IOContext, object string, keys ...string) (map[string][]byte, error) {
	op := rados.CreateReadOp()
	defer op.Release()
	got := op.GetOmapValuesByKeys(keys)
	if err := op.Operate(io, object, rados.OperationNoFlag); err != nil {
		return nil, codedError{opErrno(err), "read " + object}
	}
	values := map[string][]byte{}
	for {
		kv, err := got.Next()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", object, err)
		}
		if kv == nil {
			return values, nil
		}
		values[kv.Key] = kv.Value
	}
}

// directory is the object in which a pool's images are by name and by id.
const directory = "rbd_directory"

// clusterName is what an image is called in the cluster. Others may call one that was
// adopted something else by now, and something else may have its name.
func (s *Store) clusterName(i meta.Image) (string, error) {
	if !i.Adopted {
		return i.Cluster, nil
	}
	key := "id_" + i.ClusterID
	values, err := omapValues(s.c.io, directory, key)
	if err != nil {
		return "", err
	}
	raw, ok := values[key]
	if !ok {
		return "", codedError{syscall.ENOENT, "find the name of " + i.Cluster}
	}
	if len(raw) < 4 || int(binary.LittleEndian.Uint32(raw)) != len(raw)-4 {
		return "", fmt.Errorf("the pool's directory has no name under %s: %w", key, store.ErrCorrupt)
	}
	return string(raw[4:]), nil
}
