package app

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

// served is the backend as the API offers it: publications and limits go through
// the registry, which knows the live connections, and the status tells where the process
// runs and what is wrong with it.
type served struct {
	store.Full
	registry interface {
		store.Publisher
		store.Modifier
	}
	tls      pki.Files
	warnings []string
	node     string // where the process runs
}

// Publish implements store.Publisher.
func (s *served) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	return s.registry.Publish(ctx, id, node, access)
}

// Unpublish implements store.Publisher.
func (s *served) Unpublish(ctx context.Context, id store.ID, node string) error {
	return s.registry.Unpublish(ctx, id, node)
}

// Publications implements store.Publisher.
func (s *served) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	return s.registry.Publications(ctx, id)
}

// Modify implements store.Modifier.
func (s *served) Modify(ctx context.Context, image store.ID, c store.Change) (store.Info, error) {
	return s.registry.Modify(ctx, image, c)
}

// Status implements store.Inspector.
func (s *served) Status(ctx context.Context) (store.Status, error) {
	st, err := s.Full.Status(ctx)
	st.Node = s.node
	st.Warnings = append(st.Warnings, s.warnings...)
	if w := certificateWarning(s.tls); w != "" {
		st.Warnings = append(st.Warnings, w)
	}
	return st, err
}

// Adopt implements store.Adopter where the backend does.
func (s *served) Adopt(ctx context.Context, a store.Adoption) (store.Info, error) {
	if adopter, ok := s.Full.(store.Adopter); ok {
		return adopter.Adopt(ctx, a)
	}
	return store.Info{}, fmt.Errorf("adopt %q: only a store with the backend rbd can, which finds images of others beside its own: %w", a.Source, store.ErrUnsupported)
}

// StartScrub implements store.Scrubber where the backend does.
func (s *served) StartScrub(ctx context.Context) (store.Job, error) {
	if scrubber, ok := s.Full.(store.Scrubber); ok {
		return scrubber.StartScrub(ctx)
	}
	return store.Job{}, fmt.Errorf("scrub: this kind of store has nothing to scrub: %w", store.ErrUnsupported)
}
