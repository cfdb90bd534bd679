package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Expand makes the device, and the file system on it, as large as the image, and returns
// the size in bytes. path is where the volume is staged or published, or "". An image
// smaller than need, in bytes, is store.ErrUnavailable: the store has not grown it yet.
// A volume that is not here is store.ErrNotFound.
func (s *Service) Expand(ctx context.Context, id, path string, need int64) (int64, error) {
	if id == "" {
		return 0, fmt.Errorf("expand: the volume is needed: %w", store.ErrInvalid)
	}
	var size int64
	err := s.do(ctx, id, "expand", func(ctx context.Context, v *volume) error {
		n, err := s.expand(ctx, v, path, need)
		size = n
		return err
	})
	if err != nil {
		return 0, err
	}
	return size, nil
}

func (s *Service) expand(ctx context.Context, v *volume, path string, need int64) (int64, error) {
	r := v.record()
	switch {
	case r == nil || r.Phase != PhaseReady || path != "" && !r.has(path):
		return 0, fmt.Errorf("it is not at %q on this node: %w", path, store.ErrNotFound)
	case r.Fenced != "":
		return 0, fmt.Errorf("%s: %w", r.Fenced, store.ErrFenced)
	}
	_, info, err := s.find(ctx, r.Ticket)
	if err != nil {
		return 0, err
	}
	if info.Size < need {
		return 0, fmt.Errorf("its image has %d bytes, %d are needed: %w", info.Size, need, store.ErrUnavailable)
	}
	if info.Size > r.Size {
		if err := s.enlarge(ctx, v, info.Size); err != nil {
			return 0, err
		}
	}
	if r.FS == "" {
		return info.Size, nil
	}
	// The staging path, because a target may be read-only.
	if err := s.grow(v, r.Staging); err != nil {
		return 0, err
	}
	s.point.Hit("stage.expand.grown")
	return info.Size, nil
}

// enlarge tells the kernel of the size that the image has now.
func (s *Service) enlarge(ctx context.Context, v *volume, size int64) error {
	leave, err := v.take(ctx)
	if err != nil {
		return err
	}
	defer leave()
	v.at("having its device enlarged")
	if err := s.cfg.Kernel.Resize(ctx, v.record().device(), size); err != nil {
		return err
	}
	s.point.Hit("stage.expand.resized")
	if err := s.update(v, func(r *record) { r.Size = size }); err != nil {
		return err
	}
	s.point.Hit("stage.expand.recorded")
	return nil
}

// has tells whether the volume is staged or published at a path.
func (r *record) has(path string) bool {
	path = tablePath(path)
	if r.Staging != "" && tablePath(r.Staging) == path {
		return true
	}
	for _, t := range r.Targets {
		if tablePath(t.Path) == path {
			return true
		}
	}
	return false
}

var errGoesOn = errors.New("the volume does not answer; an earlier look at it has not come back")
