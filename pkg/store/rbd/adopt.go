//go:build ceph

package rbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/flatten"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

var _ store.Adopter = (*Store)(nil)

// exclusiveLock is the feature without which two clients could write at once.
const exclusiveLock = 4

// adoptedBlock is the block size of adopted images: what is on them was perhaps made for
// sectors of 512 bytes.
const adoptedBlock = 512

// Adopt makes an image that others have made an image of this installation. Source is
// [POOL/[NAMESPACE/]]IMAGE; the pool and the namespace are those of the installation.
//
// The image keeps its name in the cluster and gets a mark, so that no other installation
// takes it too. Rows are written last, all at once: before that, the intent and the mark
// are all there is to take back.
func (s *Store) Adopt(ctx context.Context, want store.Adoption) (store.Info, error) {
	a, err := s.adoption(want)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("adopt %q: %w", want.Source, err)
	}
	defer s.end()
	unlock, err := s.keys.lock(ctx, "name/"+a.want.Name)
	if err != nil {
		return store.Info{}, fmt.Errorf("adopt %q: %w", want.Source, err)
	}
	defer unlock()
	if err := a.run(ctx); err != nil {
		return store.Info{}, fmt.Errorf("adopt %q: %w", want.Source, classify(err))
	}
	return a.info, nil
}

// adoption is one attempt to adopt an image.
type adoption struct {
	s      *Store
	want   store.Adoption
	image  string // its name in the cluster
	seen   stranger
	intent meta.Intent
	found  bool // it was adopted before
	info   store.Info
}

// adoption checks a request and fills what it leaves open.
func (s *Store) adoption(want store.Adoption) (*adoption, error) {
	a := &adoption{s: s, want: want, image: want.Source}
	if at := strings.LastIndexByte(want.Source, '/'); at >= 0 {
		place, name := want.Source[:at], want.Source[at+1:]
		if own := s.o.own(); place != own && place+"/" != own {
			return nil, fmt.Errorf("it lies in %s, and this store keeps its images in %s: only what is there can be adopted without copying: %w", place, s.o.place(), store.ErrUnsupported)
		}
		a.image = name
	}
	a.want.Name = cmp.Or(want.Name, a.image)
	a.want.BlockSize = cmp.Or(want.BlockSize, adoptedBlock)
	return a, validate(store.Spec{Name: a.want.Name, Size: store.Block, BlockSize: a.want.BlockSize, Policy: a.want.Policy})
}

// own is the place of the installation's images, as lineages name it: pool/namespace.
func (o Options) own() string { return o.Pool + "/" + o.Namespace }

func (a *adoption) run(ctx context.Context) error {
	var err error
	if a.seen, err = a.s.look(a.image); err != nil {
		if gone(err) {
			return fmt.Errorf("%s has no such image: %w", a.s.o.place(), store.ErrNotFound)
		}
		return err
	}
	a.intent = meta.Intent{ID: string(store.NewID()), Op: meta.OpAdopt, Owner: a.s.o.Member, ClusterID: a.seen.id}
	defer a.s.working(a.intent.ID)()
	if err := a.s.update(ctx, a.reserve); err != nil || a.found {
		return err
	}
	failpoint.Hit("rbd.adopt.reserved")
	if err := a.take(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.Background(), undoWithin)
		defer cancel()
		return errors.Join(err, a.s.unadopt(undo, a.intent))
	}
	failpoint.Hit("rbd.adopt.done")
	return nil
}

// reserve refuses what cannot be adopted and writes the intent.
func (a *adoption) reserve(t *meta.Tx) error {
	a.found = false
	if i, ok := t.InCluster("", a.seen.id); ok {
		return a.again(t.State, i)
	}
	for _, i := range t.Intents {
		if i.Op == meta.OpAdopt && i.ClusterID == a.seen.id && i.ID != a.intent.ID {
			return fmt.Errorf("member %s is adopting it, or has not taken back an attempt that failed: %w", i.Owner, store.ErrBusy)
		}
	}
	for _, i := range t.Images {
		if i.Cluster == a.image && !i.Foreign() && !i.Adopted {
			return fmt.Errorf("it is the image %s of this installation already: %w", i.Name, store.ErrConflict)
		}
	}
	if err := a.free(t.State); err != nil {
		return err
	}
	if err := a.seen.refused(a.s.o.Installation); err != nil {
		return err
	}
	if _, err := a.ancestry(t.State); err != nil {
		return err
	}
	t.PutIntent(a.intent)
	return nil
}

// again answers for an image that the installation has.
func (a *adoption) again(st *meta.State, i meta.Image) error {
	switch {
	case i.Phase == meta.Removed:
		return fmt.Errorf("it was adopted as %s and removed; it stays as long as something needs it: %w", i.Name, store.ErrConflict)
	case i.Name != a.want.Name:
		return fmt.Errorf("it was adopted as %s already: %w", i.Name, store.ErrConflict)
	}
	a.info, a.found = st.Info(meta.Object{Image: i}), true
	return nil
}

// free refuses a name that is taken.
func (a *adoption) free(st *meta.State) error {
	if i, ok := st.Named(a.want.Name); ok {
		return fmt.Errorf("image %s exists and is another one: %w", i.Name, store.ErrConflict)
	}
	return nil
}

// take makes the image the installation's: the mark, the feature that fences rest on, and
// after another look the rows.
func (a *adoption) take(ctx context.Context) error {
	if err := a.s.mark(ctx, a.seen.id); err != nil {
		return err
	}
	failpoint.Hit("rbd.adopt.marked")
	if a.seen.features&exclusiveLock == 0 {
		if err := a.s.lockable(a.seen.id); err != nil {
			return err
		}
		failpoint.Hit("rbd.adopt.lockable")
	}
	now, err := a.s.look(a.image)
	if err != nil {
		return err
	}
	if !now.same(a.seen) {
		return fmt.Errorf("somebody has changed it meanwhile; try again: %w", store.ErrBusy)
	}
	if err := now.refused(a.s.o.Installation); err != nil {
		return err
	}
	a.seen = now
	return a.s.update(ctx, a.finish)
}

// lockable gives an image the exclusive lock.
func (s *Store) lockable(id string) error {
	img, err := librbd.OpenImageById(s.c.io, id, librbd.NoSnapshot)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	if err := errors.Join(img.UpdateFeatures(exclusiveLock, true), img.Close()); err != nil {
		return fmt.Errorf("enable the feature exclusive-lock: %w", err)
	}
	return nil
}

// finish writes the rows: of the image, its snapshots, and the ancestors that are not
// known yet.
func (a *adoption) finish(t *meta.Tx) error {
	if _, mine := t.Intents[a.intent.ID]; !mine {
		return fmt.Errorf("another gateway has taken over: %w", store.ErrFenced)
	}
	if err := a.free(t.State); err != nil {
		return err
	}
	line, err := a.ancestry(t.State)
	if err != nil {
		return err
	}
	row := meta.Image{
		ID: store.NewID(), Name: a.want.Name, Cluster: a.image, ClusterID: a.seen.id, Adopted: true,
		Shallow: a.seen.features&deepFlatten == 0, Order: a.seen.order, Size: a.seen.size, Overlap: a.seen.overlap,
		BlockSize: a.want.BlockSize, Policy: a.want.Policy, Format: store.FormatUnknown, Created: a.seen.created,
		Seq: len(a.seen.snaps), Parent: line.write(t),
	}
	t.PutImage(row)
	names := map[string]bool{}
	for n, x := range a.seen.snaps {
		t.PutSnapshot(meta.Snapshot{
			ID: store.NewID(), Image: row.ID, Name: x.unique(names), Cluster: x.name, Number: x.number, Size: x.size,
			Overlap: x.overlap, Format: store.FormatUnknown, Created: x.created, Seq: n + 1,
		})
	}
	t.DropIntent(a.intent.ID)
	if m := t.Meta; m.Version < meta.Version { // so that no older program takes others' for its own
		m.Version = meta.Version
		t.PutMeta(m)
	}
	policy := a.s.policy(row.Policy)
	if flatten.Decide(policy, t.Depth(row.ID)) != flatten.Link {
		if c := flatten.Choose(a.s.path(t.State, row.ID), policy.Soft); c.Image != "" && !c.Already {
			a.s.queueFlatten(t, c.Image)
		}
	}
	a.info = t.Info(meta.Object{Image: row})
	return nil
}

// unadopt takes back an adoption that was not finished: the mark goes first, since the
// intent is what leads to it.
func (s *Store) unadopt(ctx context.Context, i meta.Intent) error {
	adopted := false
	if err := s.cat.View(ctx, func(st *meta.State) error {
		_, adopted = st.InCluster("", i.ClusterID)
		return nil
	}); err != nil {
		return err
	}
	if !adopted {
		if err := s.unmark(ctx, i.ClusterID); err != nil {
			return fmt.Errorf("take back the adoption: %w", err)
		}
	}
	return s.dropIntent(i)
}

// unique is the name of a snapshot here: its own where that is one, and not taken.
func (x strangerSnap) unique(taken map[string]bool) string {
	name := x.name
	if store.ValidateName(store.KindSnapshot, name) != nil {
		name = fmt.Sprintf("adopted-%d", x.number)
	}
	for taken[name] {
		name = fmt.Sprintf("%s-%d", name, x.number)
	}
	taken[name] = true
	return name
}

// stamp is a time of the cluster; without one it is now.
func stamp(t librbd.Timespec, err error) time.Time {
	if err != nil || t.Sec == 0 {
		return time.Now().UTC()
	}
	return time.Unix(t.Sec, t.Nsec).UTC()
}
