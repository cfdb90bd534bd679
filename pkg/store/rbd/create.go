//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/flatten"
	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

// features of every image: layering, exclusive-lock, object-map, fast-diff and
// deep-flatten.
const features = 1 | 4 | 8 | 16 | 32

const (
	// maxDigest is the longest digest, in bytes.
	maxDigest = 256
	// manyObjects is how many an image has at most before it is given larger ones.
	manyObjects = 1 << 24
	// mostObjects is how many the library's object maps hold.
	mostObjects = 256_000_000
)

// errAgain: what a transaction was to build on is gone; look again.
var errAgain = errors.New("look again")

func validate(spec store.Spec) error {
	if err := store.ValidateName(store.KindImage, spec.Name); err != nil {
		return err
	}
	if spec.Size != 0 || spec.Parent == "" {
		if err := store.ValidateSize(spec.Size); err != nil {
			return err
		}
	}
	if spec.BlockSize != 0 {
		if err := store.ValidateBlockSize(spec.BlockSize); err != nil {
			return err
		}
	}
	if len(spec.Digest) > maxDigest {
		return fmt.Errorf("digest of %d bytes, at most %d are allowed: %w", len(spec.Digest), maxDigest, store.ErrInvalid)
	}
	if err := store.ValidateLimits(spec.Limits); err != nil {
		return err
	}
	return store.ValidatePolicy(spec.Policy)
}

// Create makes an image, or a clone of Spec.Parent.
func (s *Store) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	err := validate(spec)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
	}
	defer s.end()
	unlock, err := s.keys.lock(ctx, "name/"+spec.Name)
	if err != nil {
		return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
	}
	defer unlock()
	for {
		info, err := s.create(ctx, spec)
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			return store.Info{}, fmt.Errorf("create %q: %w", spec.Name, err)
		}
		return info, nil
	}
}

// create makes one attempt.
func (s *Store) create(ctx context.Context, spec store.Spec) (store.Info, error) {
	c := &creation{s: s, spec: spec, id: string(store.NewID())}
	defer s.working(c.id)()
	if err := s.cat.View(ctx, c.look); err != nil || c.found != nil {
		return c.answer(), err
	}
	if c.urgent != "" {
		return store.Info{}, c.first(ctx)
	}
	if spec.Parent != "" && c.parent.Snap == nil {
		snap, err := s.freeze(ctx, spec.Parent)
		if err != nil {
			return store.Info{}, err
		}
		c.via = &snap
	} else {
		c.via = c.parent.Snap
	}
	if err := s.update(ctx, c.reserve); err != nil || c.found != nil {
		return c.answer(), errors.Join(err, s.unfreeze(c))
	}
	failpoint.Hit("rbd.create.reserved")
	if err := s.build(c.row, c.base, c.via); err != nil {
		return store.Info{}, errors.Join(err, s.takeBack(c.intent))
	}
	failpoint.Hit("rbd.create.built")
	if err := s.update(ctx, c.finish); err != nil {
		return store.Info{}, errors.Join(err, s.takeBack(c.intent))
	}
	failpoint.Hit("rbd.create.done")
	return c.info, nil
}

// creation is one attempt to make an image.
type creation struct {
	s      *Store
	spec   store.Spec
	head   *store.Publication // of a private head; nil for an image
	parent meta.Object
	base   meta.Image     // the parent's image
	via    *meta.Snapshot // what is cloned
	row    meta.Image
	id     string // of the intent
	intent meta.Intent
	found  *store.Info // it was there already
	urgent store.ID    // what has to be flattened first
	depth  int
	info   store.Info
}

func (c *creation) answer() store.Info {
	if c.found != nil {
		return *c.found
	}
	return store.Info{}
}

// look decides whether the image can be made, without changing anything.
func (c *creation) look(st *meta.State) error {
	if i, ok := st.Named(c.spec.Name); ok && c.head == nil {
		switch {
		case i.Phase == meta.Making:
			return fmt.Errorf("it is being made: %w", store.ErrBusy)
		case c.spec.Digest != "" && c.spec.Digest == i.Digest:
			info := st.Info(meta.Object{Image: i})
			c.found = &info
			return nil
		}
		return store.ErrConflict
	}
	c.row = meta.Image{
		ID: store.NewID(), Name: c.spec.Name, Phase: meta.Making, Size: c.spec.Size, BlockSize: c.spec.BlockSize,
		Policy: c.spec.Policy, Limits: c.spec.Limits, Digest: c.spec.Digest, Created: time.Now().UTC(),
	}
	c.row.Cluster = c.s.prefix() + string(c.row.ID)
	if c.spec.Parent != "" {
		if err := c.lookAtParent(st); err != nil {
			return err
		}
	}
	if c.row.BlockSize == 0 {
		c.row.BlockSize = store.Block
	}
	c.row.Order = c.s.order(c.row.Size)
	return nil
}

func (c *creation) lookAtParent(st *meta.State) error {
	var err error
	if c.parent, err = st.Find(c.spec.Parent, ""); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	c.base = c.parent.Image
	size := c.parent.Size()
	if c.spec.Size != 0 && c.spec.Size < size {
		return fmt.Errorf("size %d is smaller than the parent's %d: %w", c.spec.Size, size, store.ErrRange)
	}
	c.row.Size, c.row.Overlap, c.row.Format = max(c.spec.Size, size), size, c.parent.Format()
	c.row.Policy = inherit(c.spec.Policy, c.base.Policy)
	if c.row.BlockSize == 0 {
		c.row.BlockSize = c.base.BlockSize
	}
	c.depth = st.Depth(c.base.ID) + 1
	policy := c.s.policy(c.row.Policy)
	if c.head == nil && flatten.Decide(policy, c.depth) == flatten.FlattenFirst {
		path := append([]flatten.Step{{Depth: c.depth, Blocked: true}}, c.s.path(st, c.base.ID)...)
		if c.urgent = flatten.Choose(path, policy.Soft).Image; c.urgent == "" {
			return fmt.Errorf("clone depth %d is above the hard limit of %d, and none of the ancestors can be flattened here: %w", c.depth, policy.Hard, store.ErrUnsupported)
		}
	}
	return nil
}

func inherit(p, parent store.Policy) store.Policy {
	if p.Soft == 0 {
		p.Soft = parent.Soft
	}
	if p.Hard == 0 {
		p.Hard = parent.Hard
	}
	return p
}

// policy fills in what an image leaves open.
func (s *Store) policy(p store.Policy) store.Policy { return flatten.Resolve(fill(p, s.o.Policy)) }

// order is the power of two of the objects of an image of that size.
func (s *Store) order(size int64) int {
	order := bits.TrailingZeros64(uint64(s.o.ObjectSize))
	for size>>order > manyObjects && 1<<order < mostObject {
		order++
	}
	return order
}

// path is an image and its ancestors as the depth policy wants them. What a flatten
// would copy is not known without asking the cluster; the overlap bounds it.
func (s *Store) path(st *meta.State, id store.ID) []flatten.Step {
	images := st.Path(id)
	steps := make([]flatten.Step, len(images))
	for n, i := range images {
		steps[n] = flatten.Step{
			Image: i.ID, Depth: len(images) - 1 - n, Bytes: i.Overlap,
			Queued: st.Flattening(i.ID), Blocked: i.Phase == meta.Making || st.Fixed(i.ID),
		}
	}
	return steps
}

// first makes the flatten that has to come first urgent.
func (c *creation) first(ctx context.Context) error {
	job := jobs.New(store.JobFlatten, string(c.urgent), c.base.Size)
	job.Urgent = true
	if _, err := c.s.addFlatten(ctx, job); err != nil {
		return err
	}
	return fmt.Errorf("clone depth %d is above the hard limit: a flatten of an ancestor has to be done first, see its job: %w", c.depth, store.ErrBusy)
}

// reserve writes the rows of what is to be made.
func (c *creation) reserve(t *meta.Tx) error {
	c.found = nil
	if err := c.look(t.State); err != nil || c.found != nil {
		return err
	}
	if c.via != nil {
		snap, ok := t.Snaps[c.via.ID]
		if !ok || snap.Phase != meta.Live || c.urgent != "" {
			return errAgain
		}
		c.row.Parent = &meta.Link{Image: snap.Image, Snapshot: snap.ID}
		c.row.Overlap, c.row.Size = snap.Size, max(snap.Size, c.row.Size)
		if !snap.Internal {
			c.row.Parent.Name = snap.Name
		}
	}
	c.intent = meta.Intent{ID: c.id, Op: meta.OpCreate, Owner: c.s.o.Member, Image: c.row.ID}
	if c.head != nil {
		c.row.Name, c.row.Source, c.row.Node = c.parent.Ref(), c.parent.ID(), c.head.Node
	}
	t.PutImage(c.row)
	t.PutIntent(c.intent)
	return nil
}

// finish makes the image visible, and queues the flatten that its depth asks for.
func (c *creation) finish(t *meta.Tx) error {
	i, ok := t.Images[c.row.ID]
	if _, mine := t.Intents[c.intent.ID]; !mine || !ok {
		return fmt.Errorf("another gateway has taken over: %w", store.ErrFenced)
	}
	i.Phase = meta.Live
	t.PutImage(i)
	t.DropIntent(c.intent.ID)
	policy := c.s.policy(i.Policy)
	switch depth := t.Depth(i.ID); {
	case c.spec.Flatten && i.Parent != nil:
		c.s.queueFlatten(t, i.ID)
	case flatten.Decide(policy, depth) != flatten.Link:
		if choice := flatten.Choose(c.s.path(t.State, i.ID), policy.Soft); choice.Image != "" && !choice.Already {
			c.s.queueFlatten(t, choice.Image)
		}
	}
	c.info = t.Info(meta.Object{Image: i})
	return nil
}

// build makes in the cluster what a row describes.
func (s *Store) build(row, base meta.Image, via *meta.Snapshot) error {
	opts := librbd.NewRbdImageOptions()
	defer opts.Destroy()
	err := errors.Join(opts.SetUint64(librbd.ImageOptionOrder, uint64(row.Order)),
		opts.SetUint64(librbd.ImageOptionFeatures, features))
	if s.o.DataPool != "" {
		err = errors.Join(err, opts.SetString(librbd.ImageOptionDataPool, s.o.DataPool))
	}
	if err != nil {
		return fmt.Errorf("options of an image: %w", err)
	}
	if via == nil {
		return classify(librbd.CreateImage(s.c.io, row.Cluster, uint64(row.Size), opts))
	}
	if err := opts.SetUint64(librbd.ImageOptionCloneFormat, 2); err != nil {
		return fmt.Errorf("options of an image: %w", err)
	}
	parent, err := s.clusterName(base)
	if err != nil {
		return classify(err)
	}
	if err := librbd.CloneImage(s.c.io, parent, via.Cluster, s.c.io, row.Cluster, opts); err != nil {
		return classify(fmt.Errorf("clone %s@%s: %w", base.Cluster, via.Cluster, err))
	}
	if row.Size == via.Size {
		return nil
	}
	failpoint.Hit("rbd.create.cloned")
	img, err := librbd.OpenImage(s.c.io, row.Cluster, librbd.NoSnapshot)
	if err != nil {
		return classify(fmt.Errorf("open the new clone: %w", err))
	}
	return classify(errors.Join(img.Resize(uint64(row.Size)), img.Close()))
}
