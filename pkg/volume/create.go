package volume

import (
	"context"
	"errors"
	"fmt"

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
	// If a store could not be asked: an image is away from its anchor only if the anchor
	// says so, and the anchor and the store it names have to answer.
	var src *found
	if p.sourced() {
		if src, err = s.source(ctx, p); err != nil {
			return found{}, err
		}
	}
	return s.place(ctx, p, v, src)
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

// place finds the store on which the image is made and makes it there. It leaves a store
// only when that has answered that it is full, after the anchor has noted where to go.
func (s *Service) place(ctx context.Context, p *plan, v pool.View, src *found) (found, error) {
	var least, need int64
	anchor := anchorOf(v, p.image)
	near := src != nil && src.pool == p.pool.Name // the anchor is the source's store
	if src != nil {
		least = src.info.Size
	}
	if near {
		anchor = src.m.UUID
	} else if src != nil {
		var err error
		if need, err = room(ctx, src); err != nil {
			return found{}, err
		}
	}
	size, err := p.size(least)
	if err != nil {
		return found{}, err
	}
	if anchor == "" {
		return found{}, fmt.Errorf("volume %s: no store of pool %s can take volumes yet: %w", p.Name, v.Pool, errors.Join(v.Err(), store.ErrUnavailable))
	}
	at, err := v.Find(anchor)
	if err != nil {
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	}
	forwarded, err := note(ctx, at, forwardNote(p.image))
	if err != nil {
		return found{}, err
	}
	target := forwarded
	if target == "" {
		target = anchor
		if !near {
			if best := choose(v, p.image, p.Prefer, need, nil); best != "" {
				target = best
			}
		}
	}
	tried := make(map[string]bool)
	for {
		if target != anchor && target != forwarded {
			if err := s.forward(ctx, p, at, forwarded, target); err != nil {
				return found{}, err
			}
			forwarded = target
			failpoint.Hit("volume.create.forwarded")
		}
		f, err := s.makeAt(ctx, p, v, target, src, size)
		if !errors.Is(err, store.ErrNoSpace) {
			return f, err
		}
		tried[target] = true
		if near && need == 0 {
			if need, err = room(ctx, src); err != nil {
				return found{}, err
			}
		}
		next := choose(v, p.image, "", need, tried)
		if next == "" {
			return found{}, full(p, v, err)
		}
		s.opts.Event(Event{Kind: Forwarded, Pool: v.Pool, Image: p.image, Store: next, Err: err})
		if next == anchor { // the note must not point past it
			if err := s.forward(ctx, p, at, forwarded, ""); err != nil {
				return found{}, err
			}
			forwarded = ""
		}
		target = next
	}
}

// makeAt makes the image on one store: empty, as a clone if the source is there, or by a
// copy. ErrNoSpace means that nothing of it is there.
func (s *Service) makeAt(ctx context.Context, p *plan, v pool.View, target string, src *found, size int64) (found, error) {
	m, err := v.Find(target)
	if err != nil {
		return found{}, fmt.Errorf("volume %s is made there: %w", p.Name, err)
	}
	if src != nil && src.m.UUID != m.UUID {
		return s.copyTo(ctx, p, m, src, size)
	}
	var parent *store.Info
	if src != nil {
		parent = &src.info
	}
	info, err := m.Remote.Create(ctx, p.spec(parent, size))
	if err != nil {
		if errors.Is(err, store.ErrBusy) {
			err = fmt.Errorf("%w%s", err, flattening(ctx, m, ""))
		}
		return found{}, fmt.Errorf("volume %s: %s: %w", p.Name, m, err)
	}
	failpoint.Hit("volume.create.made")
	return s.existing(ctx, p, found{p.pool.Name, m, info})
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
		text := fmt.Sprintf(" (job %s: flatten of %s, %s)", j.ID, j.Target, j.State)
		if j.Total > 0 {
			text = fmt.Sprintf(" (job %s: flatten of %s, %s, %d of %d bytes)", j.ID, j.Target, j.State, j.Done, j.Total)
		}
		return text
	}
	return ""
}
