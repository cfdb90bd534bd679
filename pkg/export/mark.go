package export

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// mark is called before whatever changes an image. The first change by a tool records, and
// that survives a crash before the change is begun, that the image may hold anything: it is
// never formatted from then on. A tool that only looks leaves an unused image unused.
func (e *export) mark() error {
	if !e.unmarked.Load() {
		return nil
	}
	e.marking.Lock()
	defer e.marking.Unlock()
	if !e.unmarked.Load() {
		return nil
	}
	if err := e.r.markUnknown(context.Background(), e.o.id); err != nil {
		return fmt.Errorf("record that image %s is written to: %w", e.dev.Info().Ref(), err)
	}
	e.unmarked.Store(false)
	return nil
}

// markUnknown leaves an image alone whose content is known: a tool may repair a file system.
func (r *Registry) markUnknown(ctx context.Context, id store.ID) error {
	info, err := r.src.Stat(ctx, id)
	if err != nil {
		return err
	}
	if info.Format != store.FormatNone && info.Format != store.FormatBegun {
		return nil
	}
	unknown := store.FormatUnknown
	_, err = r.src.Modify(ctx, id, store.Change{Format: &unknown})
	return err
}
