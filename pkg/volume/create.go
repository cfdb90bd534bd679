package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Create makes a volume. Repeated with the same name it returns the same volume, or
// ErrConflict if something else is asked for. ErrInvalid, ErrRange, ErrNotFound (source),
// ErrNoSpace when no store has room: then nothing is left of the request. ErrBusy, with
// progress in its text, while a copy or a flatten has to finish first; ErrUnavailable
// when a store that decides cannot be reached.
func (s *Service) Create(ctx context.Context, req CreateRequest) (Volume, error) {
	p, err := s.plan(req)
	if err != nil {
		return Volume{}, err
	}
	return run(ctx, s, p.key(), func(ctx context.Context) (Volume, error) {
		f, err := s.create(ctx, p)
		if err != nil {
			return Volume{}, err
		}
		return f.volume(nil), nil
	})
}

func (s *Service) create(ctx context.Context, p *plan) (found, error) {
	v, err := s.pools.View(ctx, p.pool.Name)
	if err != nil {
		return found{}, err
	}
	f, err := everywhere(ctx, v, func(m pool.Member) (store.Info, error) { return m.Remote.Lookup(ctx, p.image) })
	switch {
	case err == nil:
		return s.existing(ctx, p, f)
	case !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnavailable):
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	}
	if err := s.inOtherPools(ctx, p); err != nil {
		return found{}, err
	}
	// If a store could not be asked: an image is away from its anchor only if the anchor
	// says so, and the anchor and the store it names have to answer.
	var src *found
	if p.sourced() {
		if src, err = s.source(ctx, p); err != nil {
			return found{}, s.sourceless(ctx, p, v, err)
		}
	}
	return s.place(ctx, p, v, src)
}

// inOtherPools refuses a name that a volume in another pool has, as far as the stores
// there answer: the pool is part of what is asked for.
func (s *Service) inOtherPools(ctx context.Context, p *plan) error {
	for _, name := range s.pools.Names() {
		if name == p.pool.Name {
			continue
		}
		v, err := s.pools.View(ctx, name)
		if err != nil {
			return err
		}
		f, err := everywhere(ctx, v, func(m pool.Member) (store.Info, error) { return m.Remote.Lookup(ctx, p.image) })
		if err == nil && strings.HasPrefix(f.info.Digest, digestPrefix) {
			return fmt.Errorf("volume %s exists in pool %s: %w", p.Name, name, store.ErrConflict)
		}
	}
	return nil
}

// sourceless answers that there is no source. An earlier attempt may have left a note.
func (s *Service) sourceless(ctx context.Context, p *plan, v pool.View, cause error) error {
	if errors.Is(cause, store.ErrNotFound) {
		if err := s.unforward(ctx, v, p.image); err != nil {
			return fmt.Errorf("%v; clean up: %v: %w", cause, err, store.ErrUnavailable)
		}
	}
	return cause
}

// source finds what the volume is made from.
func (s *Service) source(ctx context.Context, p *plan) (*found, error) {
	prefix, text := volumePrefix, p.Volume
	if p.Snapshot != "" {
		prefix, text = snapshotPrefix, p.Snapshot
	}
	want, err := parseID(prefix, text)
	if err != nil {
		return nil, fmt.Errorf("source of volume %s: %w", p.Name, err)
	}
	f, err := s.find(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("source of volume %s: %w", p.Name, err)
	}
	if f.info.Kind == store.KindImage {
		if err := s.whole(ctx, f); err != nil {
			return nil, fmt.Errorf("source of volume %s: %w", p.Name, err)
		}
	}
	return &f, nil
}

// site is where an image is about to be made.
type site struct {
	view   pool.View
	anchor pool.Member
	note   string // what the anchor says: UUID of the store, "" for itself
	src    *found // nil for an empty image
	near   bool   // the anchor is the source's store
	size   int64
	need   int64 // bytes that a store must have free
}

// place finds the store on which the image is made and makes it there.
func (s *Service) place(ctx context.Context, p *plan, v pool.View, src *found) (found, error) {
	at, err := s.survey(ctx, p, v, src)
	if err != nil {
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	}
	// A store that was given up has taken along what was to be made there.
	if at.note != "" && !slices.Contains(v.Forgotten, at.note) {
		return s.settle(ctx, p, at, at.note)
	}
	// Nothing was forwarded, so if anything was made, then here.
	info, err := at.anchor.Remote.Lookup(ctx, p.image)
	switch {
	case err == nil:
		return s.existing(ctx, p, found{p.pool.Name, at.anchor, info})
	case !errors.Is(err, store.ErrNotFound):
		return found{}, fmt.Errorf("volume %s: %s: %w", p.Name, at.anchor, err)
	case at.near:
		return s.settle(ctx, p, at, at.anchor.UUID)
	}
	target := p.choose(v, at.need, nil)
	if target == "" {
		target = at.anchor.UUID
	}
	return s.settle(ctx, p, at, target)
}

// survey finds the anchor and what it says, and how large the image becomes.
func (s *Service) survey(ctx context.Context, p *plan, v pool.View, src *found) (*site, error) {
	at := &site{view: v, src: src}
	anchor, least := anchorOf(v, p.image), int64(0)
	if src != nil {
		least = src.info.Size
		if at.near = src.pool == p.pool.Name; at.near {
			anchor = src.m.UUID
		}
	}
	var err error
	if at.size, err = p.size(least); err != nil {
		return nil, err
	}
	if anchor == "" {
		return nil, fmt.Errorf("no store of pool %s can take volumes yet: %w", v.Pool, errors.Join(v.Err(), store.ErrUnavailable))
	}
	if at.anchor, err = s.member(ctx, v, anchor); err != nil {
		return nil, err
	}
	if src != nil && !at.near {
		if at.need, err = room(ctx, src); err != nil {
			return nil, err
		}
	}
	at.note, err = note(ctx, at.anchor, forwardNote(p.image))
	return at, err
}

// settle makes the image at the target, or at the next store that has room. It leaves a
// store only when that has answered that it is full and does not have the image, and
// goes on only when the anchor has noted where to.
func (s *Service) settle(ctx context.Context, p *plan, at *site, target string) (found, error) {
	tried := make(map[string]bool)
	for {
		if err := s.forward(ctx, p, at, target); err != nil {
			return found{}, err
		}
		f, cause := s.makeAt(ctx, p, at, target)
		if !errors.Is(cause, store.ErrNoSpace) {
			return f, cause
		}
		if at.src != nil && at.need == 0 {
			var err error
			if at.need, err = room(ctx, at.src); err != nil {
				return found{}, err
			}
		}
		tried[target] = true
		if target = p.choose(at.view, at.need, tried); target == "" {
			if err := s.forward(ctx, p, at, at.anchor.UUID); err != nil { // nothing is left of it
				return found{}, err
			}
			return found{}, full(p, at.view, cause)
		}
		s.opts.Event(Event{Kind: Forwarded, Pool: at.view.Pool, Image: p.image, Store: target, Err: cause})
	}
}

// makeAt makes the image on one store: empty, as a clone if the source is there, or by a
// copy. ErrNoSpace means that nothing of it is there.
func (s *Service) makeAt(ctx context.Context, p *plan, at *site, target string) (found, error) {
	m, err := s.member(ctx, at.view, target)
	if err != nil {
		return found{}, fmt.Errorf("volume %s is made there: %w", p.Name, err)
	}
	if at.src != nil && at.src.m.UUID != m.UUID {
		return s.copyTo(ctx, p, m, at.src, at.size)
	}
	var parent *store.Info
	if at.src != nil {
		parent = &at.src.info
	}
	info, err := s.make(ctx, m, p.spec(parent, at.size))
	if err != nil {
		if errors.Is(err, store.ErrBusy) {
			err = fmt.Errorf("%w%s", err, flattening(ctx, m, ""))
		}
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	}
	failpoint.Hit("volume.create.made")
	if info.Policy.Soft > 0 && info.Depth > info.Policy.Soft {
		s.opts.Event(Event{
			Kind: Deepened, Pool: at.view.Pool, Image: info.Name, Store: m.UUID, ID: info.ID, Depth: info.Depth, Soft: info.Policy.Soft,
		})
	}
	return s.existing(ctx, p, found{p.pool.Name, m, info})
}

// make makes an image. A store that is full may say so although it has the image from an
// earlier attempt, so that is looked up before the answer counts.
func (s *Service) make(ctx context.Context, m pool.Member, spec store.Spec) (store.Info, error) {
	info, err := m.Remote.Create(ctx, spec)
	if errors.Is(err, store.ErrNoSpace) {
		cause := err
		if info, err = m.Remote.Lookup(ctx, spec.Name); errors.Is(err, store.ErrNotFound) {
			err = cause
		}
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("%s: %w", m, err)
	}
	return info, nil
}

// existing answers with an image that has the volume's name, if it is what is asked for.
func (s *Service) existing(ctx context.Context, p *plan, f found) (found, error) {
	switch {
	case f.info.Digest != p.digest:
		return found{}, fmt.Errorf("volume %s exists and was asked for differently: %w", p.Name, store.ErrConflict)
	case !p.fits(f.info.Size):
		return found{}, fmt.Errorf("volume %s exists with %d bytes, wanted are %d to %d: %w", p.Name, f.info.Size, p.Required, p.Limit, store.ErrConflict)
	case !p.sourced():
		return f, nil
	}
	if err := s.continueCopy(ctx, p, f); err != nil {
		return found{}, err
	}
	if p.mode == pool.CloneCopy && f.info.Parent != "" {
		if _, err := f.m.Remote.StartFlatten(ctx, f.info.ID); err != nil {
			return found{}, fmt.Errorf("volume %s: %s: %w", p.Name, f.m, err)
		}
		info, err := f.m.Remote.Stat(ctx, f.info.ID)
		if err != nil {
			return found{}, fmt.Errorf("volume %s: %s: %w", p.Name, f.m, err)
		}
		if f.info = info; info.Parent != "" {
			return found{}, fmt.Errorf("volume %s is being copied%s: %w", p.Name, flattening(ctx, f.m, info.ID), store.ErrBusy)
		}
	}
	return f, nil
}

// flattening says how far the flatten of an image is, or, with id "", the one that is
// urgent; "" if that is not known.
func flattening(ctx context.Context, m pool.Member, image store.ID) string {
	jobs, err := m.Remote.Jobs(ctx)
	if err != nil {
		return ""
	}
	for _, j := range jobs {
		if j.Kind != store.JobFlatten || image == "" && !j.Urgent || image != "" && j.Target != string(image) {
			continue
		}
		text := fmt.Sprintf(" (job %s: flatten of %s, %s, %d of %d bytes)", j.ID, j.Target, j.State, j.Done, j.Total)
		if j.Error != "" {
			text += ": " + j.Error
		}
		return text
	}
	return ""
}
