//go:build ceph

package rbd

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// mostAncestors bounds a lineage, against one that the cluster would tell in a circle.
const mostAncestors = 1000

// ancestor is an image that another one was cloned from, with the snapshot that it was.
type ancestor struct {
	place, name, id string // place is pool/namespace
	owner           string // the installation that has it, "" if none
	size, overlap   int64
	order           int
	number          uint64 // of the snapshot
	snap            string // its name; "" for one in the library's trash
	snapSize        int64
}

// spec is how a user writes an ancestor.
func (a ancestor) spec() string { return strings.ReplaceAll(a.place, "//", "/") + "/" + a.name }

// ancestors follows the clone links of an open image to the root, nearest first.
func (s *Store) ancestors(img *librbd.Image) ([]ancestor, error) {
	var line []ancestor
	link, err := img.GetParent()
	for ; err == nil; link, err = s.parentOf(line[len(line)-1]) {
		if len(line) == mostAncestors {
			return nil, fmt.Errorf("its lineage has no end: %w", store.ErrCorrupt)
		}
		a, e := s.ancestor(link)
		if e != nil {
			return nil, fmt.Errorf("ancestor %s/%s: %w", link.Image.PoolName, link.Image.ImageName, e)
		}
		line = append(line, a)
	}
	if !gone(err) {
		return nil, err
	}
	return line, nil
}

// at opens an ancestor, in trash or not, at the snapshot that was cloned.
func (s *Store) at(a ancestor, use func(*librbd.Image) error) error {
	pool, namespace, _ := strings.Cut(a.place, "/")
	io, err := s.c.conn.OpenIOContext(pool)
	if err != nil {
		return err
	}
	defer io.Destroy()
	io.SetNamespace(namespace)
	return readOnly(io, a.id, func(img *librbd.Image) error {
		if err := img.SetSnapByID(a.number); err != nil {
			return err
		}
		return use(img)
	})
}

// readOnly opens an image by its id without a watch, which others could see.
func readOnly(io *rados.IOContext, id string, use func(*librbd.Image) error) error {
	img, err := librbd.OpenImageByIdReadOnly(io, id, librbd.NoSnapshot)
	if err != nil {
		return err
	}
	defer func() { _ = img.Close() }() // it was only looked at
	return use(img)
}

func (s *Store) parentOf(a ancestor) (link *librbd.ParentInfo, err error) {
	err = s.at(a, func(img *librbd.Image) (err error) {
		link, err = img.GetParent()
		return err
	})
	return link, err
}

// ancestor describes the end of a clone link.
func (s *Store) ancestor(link *librbd.ParentInfo) (ancestor, error) {
	a := ancestor{
		place: link.Image.PoolName + "/" + link.Image.PoolNamespace, name: link.Image.ImageName,
		id: link.Image.ImageID, number: link.Snap.ID,
	}
	return a, s.at(a, func(img *librbd.Image) error {
		info, err := img.Stat()
		if err != nil {
			return err
		}
		overlap, err := img.GetOverlap()
		if err != nil {
			return err
		}
		a.snapSize, a.size, a.overlap, a.order = int64(info.Size), int64(info.Size), int64(overlap), info.Order
		kind, err := img.GetSnapNamespaceType(a.number)
		if err == nil && kind == librbd.SnapNamespaceTypeUser {
			a.snap = link.Snap.SnapName
		}
		a.owner = installationOf(a.name)
		if mark, e := img.GetMetadata(markKey); e == nil && a.owner == "" {
			a.owner = markOwner(mark, a.id)
		}
		return err
	})
}

// installationOf is the installation that names its images so, "" if none does.
func installationOf(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) == 3 && parts[0] == "strata" && store.IsID(parts[2]) {
		return parts[1]
	}
	return ""
}

// known is a lineage, and from where on the catalogue has it: as an image of the
// installation, or as one of others that was met before.
type known struct {
	fresh []ancestor
	rest  *meta.Link
	snap  *ancestor  // the snapshot of the known ancestor, if it has no row yet
	base  meta.Image // that ancestor
}

// ancestry finds out what of the lineage the catalogue has. Ancestors that installations
// have are refused but for what this one knows, since whoever has them would delete them.
func (a *adoption) ancestry(st *meta.State) (known, error) {
	var k known
	own := a.s.o.own()
	for _, x := range a.seen.line {
		if x.place == own && x.owner == a.s.o.Installation {
			link, err := ownLink(st, x)
			k.rest = link
			return k, err
		}
		if x.owner != "" {
			return k, fmt.Errorf("its ancestor %s belongs to the installation %s of strata; cut the link first with: rbd flatten: %w", x.spec(), x.owner, store.ErrUnsupported)
		}
		if i, ok := st.InCluster(x.place, x.id); ok {
			k.base, k.snap = i, &x
			return k, nil
		}
		k.fresh = append(k.fresh, x)
	}
	return k, nil
}

// ownLink is the link to an image of the installation itself.
func ownLink(st *meta.State, x ancestor) (*meta.Link, error) {
	i, ok := st.InCluster("", x.id)
	for _, other := range st.Images {
		if !ok && other.Cluster == x.name && !other.Foreign() && !other.Adopted {
			i, ok = other, true
		}
	}
	for _, n := range st.SnapsOf(i.ID) {
		if !ok || n.Phase != meta.Live || n.Cluster != x.snap {
			continue
		}
		link := &meta.Link{Image: i.ID, Snapshot: n.ID}
		if !n.Internal {
			link.Name = n.Name
		}
		return link, nil
	}
	return nil, fmt.Errorf("its ancestor %s is an image of this installation, and was cloned from a snapshot that is not; cut the link first with: rbd flatten: %w", x.spec(), store.ErrUnsupported)
}

// write writes the rows of ancestors that have none, and returns the link to the nearest.
func (k known) write(t *meta.Tx) *meta.Link {
	link := k.rest
	if k.snap != nil {
		link = k.snap.link(t, k.base.ID)
	}
	for n := len(k.fresh) - 1; n >= 0; n-- {
		x := k.fresh[n]
		row := meta.Image{
			ID: store.NewID(), Name: x.name, Cluster: x.spec(), ClusterID: x.id, Place: x.place, Phase: meta.Removed,
			Order: x.order, Size: x.size, Overlap: x.overlap, BlockSize: store.Block, Parent: link, Created: time.Now().UTC(),
		}
		t.PutImage(row)
		link = x.link(t, row.ID)
	}
	return link
}

// link is the clone link to a snapshot of others, whose row is written if it is missing.
func (a ancestor) link(t *meta.Tx, image store.ID) *meta.Link {
	number := strconv.FormatUint(a.number, 10)
	snaps := t.SnapsOf(image)
	for _, n := range snaps {
		if n.Cluster == number {
			return &meta.Link{Image: image, Snapshot: n.ID, Name: a.snap}
		}
	}
	row := meta.Snapshot{
		ID: store.NewID(), Image: image, Name: a.snap, Cluster: number, Internal: true, Phase: meta.Removed,
		Size: a.snapSize, Overlap: a.overlap, Created: time.Now().UTC(), Seq: len(snaps) + 1,
	}
	t.PutSnapshot(row)
	return &meta.Link{Image: image, Snapshot: row.ID, Name: a.snap}
}
