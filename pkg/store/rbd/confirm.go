//go:build ceph

package rbd

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"
	"golang.org/x/sync/errgroup"
)

// confirmAtOnce is how many objects are looked at at once before a flatten.
const confirmAtOnce = 16

// confirm makes true what the object map says an image has, where its parent shows
// through. The library notes in the map that an object exists before it makes it. A
// process that is killed in between leaves an object that is not there, which is read
// from the parent all the same; but a flatten passes over it, cuts the link, and from then
// on it reads zero. So each object of the map is looked for, and what is missing is
// copied by the operation that the library uses, which leaves an object alone that has
// come into being meanwhile.
func (s *Store) confirm(ctx context.Context, h *handle) error {
	visible, err := h.img.GetOverlap()
	if err != nil {
		return err
	}
	overlap := min(int64(visible), h.size.Load())
	claimed, err := h.spans(librbd.NoSnapshot, 0, overlap, false)
	if err != nil {
		return err
	}
	info, err := h.img.Stat()
	if err != nil {
		return err
	}
	io, err := s.dataPool(h)
	if err != nil {
		return err
	}
	defer io.Destroy()
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(confirmAtOnce)
	size := int64(info.Obj_size)
	for _, c := range claimed {
		for n := c.off / size; n*size < c.end && group.Err() == nil; n++ {
			g.Go(func() error {
				object := fmt.Sprintf("%s.%016x", info.Block_name_prefix, n)
				if _, err := io.Stat(object); err == nil || !gone(err) {
					return err
				}
				return h.copyUp(io, object, n*size, min((n+1)*size, overlap))
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// dataPool is where the data of an image is. The caller destroys it.
func (s *Store) dataPool(h *handle) (*rados.IOContext, error) {
	id, err := h.img.GetDataPoolID()
	if err != nil {
		return nil, err
	}
	name, err := s.c.conn.GetPoolByID(id)
	if err != nil {
		return nil, err
	}
	io, err := s.c.conn.OpenIOContext(name)
	if err != nil {
		return nil, err
	}
	io.SetNamespace(s.o.Namespace)
	return io, nil
}

// copyUp makes an object of what the parent shows in its place, unless that is nothing.
func (h *handle) copyUp(io *rados.IOContext, object string, off, end int64) error {
	data := make([]byte, end-off)
	if _, err := h.read(data, off); err != nil {
		return err
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return nil
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "copyup", data)
	return op.Operate(io, object, rados.OperationNoFlag)
}
