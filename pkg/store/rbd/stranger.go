//go:build ceph

package rbd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
)

// deepFlatten is the feature by which an image's snapshots lose the parent with it.
const deepFlatten = 32

// servable are the features that an image of others may have: those of the installation's
// own, those that say where data lies, and the one that counts clones.
const servable = features | 2 | 128 | 256

// stranger is what there is to know of an image of others before it is adopted.
type stranger struct {
	name, id            string
	size, overlap       int64
	features            uint64
	order               int
	created             time.Time
	oldFormat           bool
	stripes             uint64
	group               string
	mirrored, encrypted bool
	cache, mark         string
	lock                string // who has locked it by hand
	watchers            []string
	snaps               []strangerSnap // those that users made, oldest first
	strange             string         // a snapshot of a kind that users cannot remove
	line                []ancestor     // nearest first
}

// strangerSnap is one of its snapshots.
type strangerSnap struct {
	number        uint64
	name          string
	size, overlap int64
	created       time.Time
	protected     bool
	children      []string // of others, as users write them
}

// look looks at an image, which it opens without a trace.
func (s *Store) look(name string) (x stranger, err error) {
	img, err := librbd.OpenImageReadOnly(s.c.io, name, librbd.NoSnapshot)
	if err != nil {
		return x, err
	}
	defer func() { _ = img.Close() }() // it was only looked at
	x.name = name
	if x.oldFormat, err = img.IsOldFormat(); err != nil || x.oldFormat {
		return x, err
	}
	for _, part := range []func(*librbd.Image) error{x.lookAtShape, x.lookAtMarks, x.lookAtUsers} {
		if err := part(img); err != nil {
			return x, err
		}
	}
	if err := s.lookAtSnapshots(&x, img); err != nil {
		return x, err
	}
	if x.line, err = s.ancestors(img); err != nil || len(x.line) > 0 {
		return x, err
	}
	for _, n := range x.snaps { // flattened without its snapshots: these have the lineage
		if n.overlap > 0 {
			err := readOnly(s.c.io, x.id, func(img *librbd.Image) (err error) {
				if err = img.SetSnapByID(n.number); err == nil {
					x.line, err = s.ancestors(img)
				}
				return err
			})
			return x, err
		}
	}
	return x, nil
}

func (x *stranger) lookAtShape(img *librbd.Image) error {
	info, err := img.Stat()
	if err != nil {
		return err
	}
	overlap, err := img.GetOverlap()
	if err != nil {
		return err
	}
	if x.id, err = img.GetId(); err != nil {
		return err
	}
	if x.features, err = img.GetFeatures(); err != nil {
		return err
	}
	if x.stripes, err = img.GetStripeCount(); err != nil {
		return err
	}
	x.size, x.overlap, x.order = int64(info.Size), int64(overlap), info.Order
	x.created = stamp(img.GetCreateTimestamp())
	return nil
}

// csiEncrypted are the metadata by which ceph-csi says that it has encrypted an image.
var csiEncrypted = [...]string{"rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/dek", "csi.ceph.com/dek"}

func (x *stranger) lookAtMarks(img *librbd.Image) error {
	all, err := img.ListMetadata()
	if err != nil {
		return err
	}
	x.cache, x.mark = all[cacheKey], markOwner(all[markKey], x.id)
	for _, key := range csiEncrypted {
		if v, ok := all[key]; ok && v != "" {
			x.encrypted = true
		}
	}
	head := make([]byte, min(x.size, store.Block))
	if len(head) > 0 {
		if _, err := img.ReadAt(head, 0); err != nil {
			return fmt.Errorf("read its first bytes: %w", err)
		}
	}
	for _, magic := range []string{"LUKS\xba\xbe", "RBDL\xba\xbe"} {
		x.encrypted = x.encrypted || bytes.HasPrefix(head, []byte(magic))
	}
	group, err := img.GetGroup()
	if err != nil && !gone(err) {
		return fmt.Errorf("ask for its group: %w", err)
	}
	x.group = group.Name
	mirror, err := img.GetMirrorImageInfo()
	if n := errno(err); err != nil && n != syscall.ENOENT && n != syscall.EOPNOTSUPP && n != syscall.EINVAL {
		return fmt.Errorf("ask whether it is mirrored: %w", err)
	}
	x.mirrored = err == nil && mirror.State != librbd.MirrorImageDisabled
	return nil
}

// lookAtUsers finds who has the image open. This process has it open read-only, which
// leaves no watch.
func (x *stranger) lookAtUsers(img *librbd.Image) error {
	watchers, err := img.ListWatchers()
	if err != nil {
		return err
	}
	for _, w := range watchers {
		x.watchers = append(x.watchers, w.Addr)
	}
	tag, lockers, err := img.ListLockers()
	if err != nil && !gone(err) {
		return err
	}
	if len(lockers) > 0 && strings.TrimRight(tag, "\x00") != "internal" { // the library breaks its own of the dead
		x.lock = fmt.Sprintf("%s, %s", lockers[0].Client, lockers[0].Addr)
	}
	return nil
}

func (s *Store) lookAtSnapshots(x *stranger, img *librbd.Image) error {
	all, err := img.GetSnapshotNames()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b librbd.SnapInfo) int { return int(min(max(int64(a.Id)-int64(b.Id), -1), 1)) })
	for _, info := range all {
		kind, err := img.GetSnapNamespaceType(info.Id)
		if err != nil {
			return err
		}
		switch kind {
		case librbd.SnapNamespaceTypeTrash: // a clone of others has it, and the library minds it
			continue
		case librbd.SnapNamespaceTypeUser:
		default:
			x.strange = info.Name
			continue
		}
		n := strangerSnap{number: info.Id, name: info.Name, size: int64(info.Size), created: stamp(img.GetSnapTimestamp(info.Id))}
		if n.protected, err = img.GetSnapshot(info.Name).IsProtected(); err != nil {
			return err
		}
		if err := s.lookAtSnapshot(x.id, &n); err != nil {
			return fmt.Errorf("snapshot %s: %w", info.Name, err)
		}
		x.snaps = append(x.snaps, n)
	}
	return nil
}

func (s *Store) lookAtSnapshot(id string, n *strangerSnap) error {
	return readOnly(s.c.io, id, func(img *librbd.Image) error {
		if err := img.SetSnapByID(n.number); err != nil {
			return err
		}
		overlap, err := img.GetOverlap()
		if err != nil {
			return err
		}
		n.overlap = int64(overlap)
		kids, err := img.ListChildrenAttributes()
		for _, k := range kids {
			n.children = append(n.children, k.PoolName+"/"+k.ImageName)
		}
		return err
	})
}

// same tells whether two looks saw the same image, but for what an adoption changes.
func (x stranger) same(y stranger) bool {
	return x.id == y.id && x.size == y.size && x.overlap == y.overlap && x.features|exclusiveLock == y.features|exclusiveLock &&
		len(x.line) == len(y.line) && slices.EqualFunc(x.snaps, y.snaps, func(a, b strangerSnap) bool {
		return a.number == b.number && a.size == b.size && a.overlap == b.overlap
	})
}

// refused says why an image cannot be served, as itself or beside whoever has it.
func (x stranger) refused(installation string) error {
	no := func(is error, text string, args ...any) error { return fmt.Errorf(text+": %w", append(args, is)...) }
	if owner := installationOf(x.name); owner != "" {
		return no(store.ErrConflict, "it is an image of the installation %s of strata", owner)
	}
	if x.mark != "" && x.mark != installation {
		return marked(x.mark)
	}
	return errors.Join(x.misshapen(no), x.inUse(no))
}

// misshapen says what of the image has no place here.
func (x stranger) misshapen(no func(error, string, ...any) error) error {
	strange := librbd.FeatureSet(x.features &^ servable)
	switch {
	case x.oldFormat:
		return no(store.ErrUnsupported, "it has the old image format 1; copy it with: rbd cp")
	case strange != 0:
		return no(store.ErrUnsupported, "it has features that are not served (%s); turn them off with: rbd feature disable", names(strange))
	case x.stripes > 1:
		return no(store.ErrUnsupported, "it is striped over %d objects at once, which is not served; copy it with: rbd cp --stripe-count 1", x.stripes)
	case x.mirrored:
		return no(store.ErrUnsupported, "it is mirrored; end that with: rbd mirror image disable")
	case x.group != "":
		return no(store.ErrUnsupported, "it is in the group %s; take it out with: rbd group image remove", x.group)
	case x.encrypted:
		return no(store.ErrUnsupported, "it is encrypted, and nobody here has the key; copy its content while it is open where it is used")
	case x.cache != "" && x.cache != "false":
		return no(store.ErrInvalid, "it sets rbd_cache to %q, which loses answered writes; see rbd config image remove", x.cache)
	case x.strange != "":
		return no(store.ErrUnsupported, "its snapshot %s was made by a group or for a mirror; remove it first", x.strange)
	}
	if err := store.ValidateSize(x.size); err != nil {
		return fmt.Errorf("%w; change it with: rbd resize", err)
	}
	for _, n := range x.snaps {
		if err := store.ValidateSize(n.size); err != nil {
			return fmt.Errorf("its snapshot %s: %w; remove it first", n.name, err)
		}
		if n.protected && len(n.children) > 0 {
			return no(store.ErrUnsupported, "its snapshot %s is protected for clones of the old kind (%s), which would keep it for ever; flatten those, or if they are not, do: rbd snap unprotect",
				n.name, strings.Join(n.children, ", "))
		}
	}
	return nil
}

// inUse says who has the image.
func (x stranger) inUse(no func(error, string, ...any) error) error {
	switch {
	case len(x.watchers) > 0:
		return no(store.ErrInUse, "clients have it open (%s); end them first, see: rbd status", strings.Join(x.watchers, ", "))
	case x.lock != "":
		return no(store.ErrInUse, "somebody has locked it (%s); see: rbd lock ls", x.lock)
	}
	return nil
}

// names lists features, those that the binding does not know by their number.
func names(f librbd.FeatureSet) string {
	list := f.Names()
	for _, name := range list {
		f &^= librbd.FeatureSetFromNames([]string{name})
	}
	if f != 0 {
		list = append(list, fmt.Sprintf("%#x", uint64(f)))
	}
	return strings.Join(list, ", ")
}
