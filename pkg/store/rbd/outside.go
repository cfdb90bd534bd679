//go:build ceph

package rbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ceph/go-ceph/rados"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// head stands for an image as it is now where the cluster wants the number of a snapshot.
const head = ^uint64(1)

// outside notices clone links that others have cut: of their own images, above one that
// was adopted, or of that one, as ceph-csi does in the background. It is then as if this
// installation had flattened them, so what is open below is opened anew: the library would
// go on reading where the link led, and read zeros once that is deleted. Between the cut
// and the next look lies a second in which nobody may delete it. Only what is open here
// matters for that; with all, the depth of the rest is made true.
func (s *Store) outside(ctx context.Context, all bool) error {
	open := s.handles.all()
	if len(open) == 0 && !all {
		return nil
	}
	var due []link
	_ = s.cat.Peek(func(st *meta.State) error {
		for id, i := range st.Images {
			if i.Parent == nil || !i.Foreign() && !i.Adopted || i.Shallow && i.Overlap == 0 || st.Flattening(id) {
				continue
			}
			below := all
			for _, h := range open {
				below = below || st.Below(h.obj.Image.ID, id)
			}
			if below {
				due = append(due, s.linkOf(st, i))
			}
		}
		return nil
	})
	var errs error
	for _, l := range due {
		held, err := s.holds(l)
		if err == nil && !held {
			err = s.update(ctx, func(t *meta.Tx) error { t.Cut(l.image); return nil })
		}
		if err != nil && !gone(err) {
			errs = errors.Join(errs, fmt.Errorf("look at the clone link of %s: %w", l.header, err))
		}
	}
	return errs
}

// link is what a clone link is looked for by.
type link struct {
	image           store.ID
	pool, namespace string
	header          string
	snaps           []uint64
}

func (s *Store) linkOf(st *meta.State, i meta.Image) link {
	l := link{image: i.ID, pool: s.o.Pool, namespace: s.o.Namespace, header: "rbd_header." + i.ClusterID}
	if !i.Foreign() {
		l.snaps = []uint64{head}
		return l
	}
	l.pool, l.namespace, _ = strings.Cut(i.Place, "/")
	for _, n := range st.SnapsOf(i.ID) {
		if number, err := strconv.ParseUint(n.Cluster, 10, 64); err == nil {
			l.snaps = append(l.snaps, number)
		}
	}
	return l
}

// holds asks whether one of the snapshots shows something of the image's parent.
func (s *Store) holds(l link) (bool, error) {
	io, err := s.c.conn.OpenIOContext(l.pool)
	if err != nil {
		return false, err
	}
	defer io.Destroy()
	io.SetNamespace(l.namespace)
	for _, n := range l.snaps {
		if overlap, err := linked(io, l.header, n); err != nil || overlap {
			return overlap, err
		}
	}
	return false, nil
}

// linked asks a header. It answers with a byte that tells whether a number follows.
func linked(io *rados.IOContext, header string, snap uint64) (bool, error) {
	op := rados.CreateReadOp()
	defer op.Release()
	step := op.Exec("rbd", "parent_overlap_get", binary.LittleEndian.AppendUint64(nil, snap))
	if err := op.Operate(io, header, rados.OperationNoFlag); err != nil {
		return false, codedError{opErrno(err), "ask " + header + " for its parent"}
	}
	out, err := step.Bytes()
	if err != nil {
		return false, err
	}
	if len(out) == 0 {
		return false, fmt.Errorf("%s says nothing of its parent: %w", header, store.ErrCorrupt)
	}
	return out[0] != 0, nil
}
