package volume

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/flatten"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Volume is an image as the outside sees it.
type Volume struct {
	ID string
	// Pool and Store are where it is; Store is a UUID.
	Pool  string
	Store string
	Info  store.Info
	// Nodes are those it is published to; filled in by Get and List.
	Nodes []string
}

// Snapshot is a snapshot as the outside sees it.
type Snapshot struct {
	ID string
	// Volume is the id of the volume it was taken of, which may be gone.
	Volume string
	Info   store.Info
}

// Tuning is what can be chosen for a volume and changed later. nil fields are not
// given: defaults apply, or what is there stays.
type Tuning struct {
	// Soft and Hard limit the clone depth, in clone links, at least 1.
	Soft *int `json:"soft,omitempty"`
	Hard *int `json:"hard,omitempty"`
	// IOPS and Bandwidth (bytes per second) limit I/O; 0 means no limit.
	IOPS      *int64 `json:"iops,omitempty"`
	Bandwidth *int64 `json:"bandwidth,omitempty"`
}

// policy puts the given limits over those of p.
func (t Tuning) policy(p store.Policy) store.Policy {
	if t.Soft != nil {
		p.Soft = *t.Soft
	}
	if t.Hard != nil {
		p.Hard = *t.Hard
	}
	return p
}

// limits puts the given limits over those of l.
func (t Tuning) limits(l store.Limits) store.Limits {
	if t.IOPS != nil {
		l.IOPS = *t.IOPS
	}
	if t.Bandwidth != nil {
		l.Bandwidth = *t.Bandwidth
	}
	return l
}

// CreateRequest asks for a volume.
type CreateRequest struct {
	// Name makes the request repeatable: valid UTF-8, not empty.
	Name string
	// Pool is "" for the default one.
	Pool string
	// Required and Limit bound the size, in bytes; 0 leaves it open.
	Required int64
	Limit    int64
	// Snapshot or Volume is the id of the source; both "" for an empty volume.
	Snapshot string
	Volume   string
	// CloneMode is one of package pool's, "" for the pool's.
	CloneMode string
	// BlockSize is 512 or 4096, 0 for the pool's. A volume made from another one has that
	// one's, whatever is asked for: partition tables and some file systems count in it.
	BlockSize int
	Tuning    Tuning
	// Use fingerprints how the volume is going to be used; opaque.
	Use string
	// ReadOnly: nobody is ever going to write it.
	ReadOnly bool
	// Distance tells how far the named node is from where the volume is wanted, for a store
	// that runs there; "" is the node of a store that does not say. The nearest store with
	// room gets the volume, if it is not made of a source that decides. nil: it does not
	// matter. It is no part of what a repeated request has to be equal in.
	Distance func(node string) int
}

// digestPrefix begins the digests of images that were made here.
const digestPrefix = "csi1:"

const (
	// defaultSize is the size of a volume for which none is given, in bytes.
	defaultSize = 1 << 30
	// anyDepth is the clone depth up to which a volume that nobody writes is never
	// flattened: it is as deep as its source and nobody clones it further.
	anyDepth = 1 << 16
)

// plan is a request that was checked, with the pool's defaults in it.
type plan struct {
	CreateRequest
	pool   pool.Settings
	image  string // name of the image
	digest string
	mode   string
}

// key names the object that requests for this volume work on.
func (p *plan) key() string { return "volume " + p.pool.Name + "/" + p.image }

func (p *plan) sourced() bool { return p.Snapshot != "" || p.Volume != "" }

// plan checks a request as far as that is possible without asking a store.
func (s *Service) plan(req CreateRequest) (*plan, error) {
	settings, err := s.pools.Settings(req.Pool)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%v: %w", err, store.ErrInvalid)
	} else if err != nil {
		return nil, err
	}
	p := &plan{CreateRequest: req, pool: settings, image: objectName(store.KindImage, req.Name), mode: req.CloneMode}
	if p.mode == "" {
		p.mode = settings.CloneMode
	}
	if p.mode == "" {
		p.mode = pool.CloneCOW
	}
	switch {
	case req.Name == "":
		return nil, fmt.Errorf("a volume needs a name: %w", store.ErrInvalid)
	case req.Snapshot != "" && req.Volume != "":
		return nil, fmt.Errorf("a volume has one source at most: %w", store.ErrInvalid)
	case req.Required < 0 || req.Limit < 0 || req.Limit > 0 && req.Limit < req.Required:
		return nil, fmt.Errorf("size of %d to %d bytes: %w", req.Required, req.Limit, store.ErrInvalid)
	}
	if err := pool.ValidateCloneMode(p.mode); err != nil {
		return nil, err
	}
	if err := p.Tuning.validate(settings.Policy); err != nil {
		return nil, err
	}
	if req.BlockSize != 0 {
		if err := store.ValidateBlockSize(req.BlockSize); err != nil {
			return nil, err
		}
	}
	p.digest = digest(req, settings.Name)
	return p, nil
}

// validate checks the given values, and the policy they make on top of p.
func (t Tuning) validate(p store.Policy) error {
	for _, depth := range []*int{t.Soft, t.Hard} {
		if depth != nil && *depth < 1 {
			return fmt.Errorf("clone depth limit %d is not positive: %w", *depth, store.ErrInvalid)
		}
	}
	for _, limit := range []*int64{t.IOPS, t.Bandwidth} {
		if limit != nil && *limit < 0 {
			return fmt.Errorf("limit %d is negative: %w", *limit, store.ErrInvalid)
		}
	}
	return store.ValidatePolicy(t.policy(p))
}

// digest fingerprints what must be equal when a request is repeated. The size is not
// in it: any size within the bounds of the repetition will do.
func digest(req CreateRequest, poolName string) string {
	data, err := json.Marshal(struct {
		Name, Pool, Snapshot, Volume, CloneMode, Use string
		BlockSize                                    int
		ReadOnly                                     bool
		Tuning                                       Tuning
	}{req.Name, poolName, req.Snapshot, req.Volume, req.CloneMode, req.Use, req.BlockSize, req.ReadOnly, req.Tuning})
	if err != nil {
		panic(err) // texts, numbers and truth values
	}
	return digestPrefix + hash(string(data))
}

// size chooses the size in bytes; least is the source's, 0 without one.
func (p *plan) size(least int64) (int64, error) {
	if p.Required > store.MaxSize {
		return 0, fmt.Errorf("volume %s: %d bytes exceed the largest size, %d: %w", p.Name, p.Required, store.MaxSize, store.ErrRange)
	}
	size := roundUp(p.Required)
	switch {
	case p.Required > 0 && p.Required < least:
		return 0, fmt.Errorf("volume %s: %d bytes are less than its source's %d: %w", p.Name, p.Required, least, store.ErrRange)
	case p.Required == 0 && least > 0:
		size = least
	case p.Required == 0:
		size = defaultSize
		if p.Limit > 0 {
			size = min(size, max(store.Block, p.Limit-p.Limit%store.Block))
		}
	}
	if p.Limit > 0 && size > p.Limit {
		return 0, fmt.Errorf("volume %s: the smallest possible size, %d bytes, exceeds the limit of %d: %w", p.Name, size, p.Limit, store.ErrRange)
	}
	return size, nil
}

// fits tells whether a size lies within the request's bounds.
func (p *plan) fits(size int64) bool {
	return size >= p.Required && (p.Limit == 0 || size <= p.Limit)
}

func roundUp(n int64) int64 { return (n + store.Block - 1) / store.Block * store.Block }

// spec is the image to make; src is nil for one without a parent. The policy of a
// source that nobody writes is not handed down.
func (p *plan) spec(src *store.Info, size int64) store.Spec {
	spec := store.Spec{
		Name: p.image, Size: size, BlockSize: p.BlockSize, Digest: p.digest,
		Policy: p.Tuning.policy(p.pool.Policy), Limits: p.Tuning.limits(p.pool.Limits),
	}
	if src == nil {
		if spec.BlockSize == 0 {
			spec.BlockSize = p.pool.BlockSize
		}
		return spec
	}
	spec.Parent, spec.BlockSize = src.ID, src.BlockSize
	spec.Flatten = p.mode != pool.CloneCOW
	if src.Policy.Soft == anyDepth {
		spec.Policy = flatten.Resolve(spec.Policy)
	}
	if p.ReadOnly && src.Kind == store.KindSnapshot && p.mode == pool.CloneCOW {
		spec.Policy = store.Policy{Soft: anyDepth, Hard: anyDepth}
	}
	return spec
}
