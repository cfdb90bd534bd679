package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Delete removes a volume. One that does not exist is no error, as long as every store
// that may have it has answered. ErrInUse names the nodes it is published to.
func (s *Service) Delete(ctx context.Context, volume string) error {
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return nil // not ours, so it does not exist
	}
	_, err = run(ctx, s, "volume "+want.key(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.remove(ctx, want)
	})
	return err
}

func (s *Service) remove(ctx context.Context, want id) error {
	f, err := s.find(ctx, want)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return s.finishUndo(ctx, want.pool, want.object)
	case err != nil:
		return err
	}
	if err := s.unpublished(ctx, f); err != nil {
		return fmt.Errorf("delete volume %s: %w", f.info.Name, err)
	}
	// No request that makes it may run now: it would answer with what is on its way out.
	p := &plan{pool: pool.Settings{Name: f.pool}, image: f.info.Name}
	if err := s.begin(p.key()); err != nil {
		return err
	}
	defer s.end(p.key())
	if err := s.stopCopy(ctx, copyKey(f.pool, f.info.Name)); err != nil {
		return fmt.Errorf("delete volume %s: stop its copy: %w", f.info.Name, err)
	}
	v, err := s.view(ctx, f.pool, s.pools.View)
	if err != nil {
		return err
	}
	if err := s.unforward(ctx, v, f.info.Name); err != nil {
		return fmt.Errorf("delete volume %s: %w", f.info.Name, err)
	}
	r, text, err := readCopy(ctx, f.m, f.info.Name)
	if err != nil {
		return err
	}
	if r != nil && (r.Image == f.info.ID || r.Image == "") {
		r.Image = f.info.ID
		return s.undoCopy(ctx, &copying{key: copyKey(f.pool, f.info.Name), pool: f.pool, image: f.info.Name, m: f.m, record: *r, text: text})
	}
	if err := f.m.Remote.Remove(ctx, f.info.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete volume %s: %s: %w", f.info.Name, f.m, err)
	}
	failpoint.Hit("volume.delete.removed")
	return nil
}

// unpublished refuses an object that a node has the right to: ErrInUse.
func (s *Service) unpublished(ctx context.Context, f found) error {
	pubs, err := f.m.Remote.Publications(ctx, f.info.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", f.m, err)
	}
	for _, p := range pubs {
		return fmt.Errorf("it is published to node %s (epoch %d): %w", p.Node, p.Epoch, store.ErrInUse)
	}
	return nil
}

// unforward removes the note that led to an image's store, wherever it is. A store that
// does not answer keeps it; it only says where a new volume of that name would go.
func (s *Service) unforward(ctx context.Context, v pool.View, image string) error {
	var mu sync.Mutex
	var failed []error
	each(v.Members, func(_ int, m pool.Member) {
		if err := clear(ctx, m, forwardNote(image)); err != nil && !errors.Is(err, store.ErrUnavailable) {
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err)
		}
	})
	failpoint.Hit("volume.delete.unforwarded")
	return errors.Join(failed...)
}
