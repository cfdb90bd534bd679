package volume

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/store"
)

// Expand makes a volume at least required bytes large, and at most limit (0: any). It
// never shrinks one. ErrNotFound, ErrRange, ErrInvalid (no size), ErrBusy.
func (s *Service) Expand(ctx context.Context, volume string, required, limit int64) (Volume, error) {
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return Volume{}, err
	}
	switch {
	case required < 0 || limit < 0 || required == 0 && limit == 0 || limit > 0 && limit < required:
		return Volume{}, fmt.Errorf("expand to %d to %d bytes: %w", required, limit, store.ErrInvalid)
	case required > store.MaxSize || limit > 0 && roundUp(required) > limit:
		return Volume{}, fmt.Errorf("expand to %d to %d bytes: no size of whole blocks up to %d fits: %w", required, limit, store.MaxSize, store.ErrRange)
	}
	return run(ctx, s, "volume "+want.key(), func(ctx context.Context) (Volume, error) {
		f, err := s.find(ctx, want)
		if err != nil {
			return Volume{}, err
		}
		if err := s.whole(ctx, f); err != nil {
			return Volume{}, err
		}
		switch {
		case limit > 0 && f.info.Size > limit:
			return Volume{}, fmt.Errorf("volume %s has %d bytes already, more than the limit of %d: %w", f.info.Name, f.info.Size, limit, store.ErrRange)
		case f.info.Size < required:
			if f.info, err = f.m.Remote.Resize(ctx, f.info.ID, roundUp(required)); err != nil {
				return Volume{}, fmt.Errorf("expand volume %s: %s: %w", want.object, f.m, err)
			}
			failpoint.Hit("volume.expand.resized")
		}
		return f.withNodes(ctx)
	})
}

// Modify changes what is given in t, all of it or nothing. ErrNotFound, ErrInvalid.
func (s *Service) Modify(ctx context.Context, volume string, t Tuning) error {
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return err
	}
	_, err = run(ctx, s, "volume "+want.key(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.modify(ctx, want, t)
	})
	return err
}

func (s *Service) modify(ctx context.Context, want id, t Tuning) error {
	f, err := s.find(ctx, want)
	if err != nil {
		return err
	}
	if err := t.validate(f.info.Policy); err != nil {
		return fmt.Errorf("modify volume %s: %w", f.info.Name, err)
	}
	policy, limits := t.policy(f.info.Policy), t.limits(f.info.Limits)
	var c store.Change
	if policy != f.info.Policy {
		c.Policy = &policy
	}
	if limits != f.info.Limits {
		c.Limits = &limits
	}
	if c == (store.Change{}) {
		return nil
	}
	if _, err := f.m.Remote.Modify(ctx, f.info.ID, c); err != nil {
		return fmt.Errorf("modify volume %s: %s: %w", f.info.Name, f.m, err)
	}
	failpoint.Hit("volume.modify.modified")
	return nil
}

// Get describes a volume and says where it is published.
func (s *Service) Get(ctx context.Context, volume string) (Volume, error) {
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return Volume{}, err
	}
	f, err := s.find(ctx, want)
	if err != nil {
		return Volume{}, err
	}
	return f.withNodes(ctx)
}

func (f found) withNodes(ctx context.Context) (Volume, error) {
	pubs, err := f.m.Remote.Publications(ctx, f.info.ID)
	if err != nil {
		return Volume{}, fmt.Errorf("volume %s: %s: %w", f.info.Name, f.m, err)
	}
	var nodes []string
	for _, p := range pubs {
		nodes = append(nodes, p.Node)
	}
	return f.volume(nodes), nil
}
