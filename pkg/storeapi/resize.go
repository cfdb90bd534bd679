package storeapi

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// Resize implements storepb.StoreServer. An image that a node has the right to is not made
// smaller: its file system is as large as it is. That is also what a growth looks like
// which was decided before a larger one and arrives after it.
func (s *Server) Resize(ctx context.Context, r *storepb.ResizeRequest) (*storepb.Info, error) {
	id := store.ID(r.GetImage())
	done, err := s.resizing.take(ctx, id)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	if err := s.mayShrink(ctx, id, r.GetSize()); err != nil {
		return nil, toStatus(err)
	}
	return oneInfo(s.full.Resize(ctx, id, r.GetSize()))
}

// mayShrink refuses to make a published image smaller: ErrInUse.
func (s *Server) mayShrink(ctx context.Context, id store.ID, size int64) error {
	info, err := s.full.Stat(ctx, id)
	if err != nil || info.Kind != store.KindImage || size >= info.Size || size <= 0 {
		return nil // Resize says what is wrong, if anything is
	}
	pubs, err := s.full.Publications(ctx, id)
	if err != nil {
		return err
	}
	for _, p := range pubs {
		return fmt.Errorf("resize %s from %d to %d bytes: it is published to node %q, and would be cut off below it: %w",
			info.Ref(), info.Size, size, p.Node, store.ErrInUse)
	}
	return nil
}

// turns lets requests about one object have their turns. The zero value is ready. Safe for
// concurrent use.
type turns struct {
	mu    sync.Mutex
	taken map[store.ID]chan struct{} // closed when the turn is over
}

// take waits for a turn. The caller ends it.
func (t *turns) take(ctx context.Context, id store.ID) (end func(), err error) {
	for {
		t.mu.Lock()
		over, busy := t.taken[id]
		if !busy {
			if t.taken == nil {
				t.taken = make(map[store.ID]chan struct{})
			}
			mine := make(chan struct{})
			t.taken[id] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.taken, id)
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
