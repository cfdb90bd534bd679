package app

import (
	"context"

	"github.com/strata-csi/strata/pkg/store"
)

// served is the backend as the API offers it: publications go through the registry,
// which cuts live connections, and the status tells what is wrong with the process.
type served struct {
	store.Full
	publisher store.Publisher
	warnings  []string
}

// Publish implements store.Publisher.
func (s *served) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	return s.publisher.Publish(ctx, id, node, access)
}

// Unpublish implements store.Publisher.
func (s *served) Unpublish(ctx context.Context, id store.ID, node string) error {
	return s.publisher.Unpublish(ctx, id, node)
}

// Publications implements store.Publisher.
func (s *served) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	return s.publisher.Publications(ctx, id)
}

// Status implements store.Inspector.
func (s *served) Status(ctx context.Context) (store.Status, error) {
	st, err := s.Full.Status(ctx)
	st.Warnings = append(st.Warnings, s.warnings...)
	return st, err
}
