package export

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// Holder is a Source that other processes serve too, each to clients of its own. So that
// a right withdrawn through one of them ends what was attached through another, each
// keeps on record for which publications it has connections.
type Holder interface {
	// Hold puts on record that this process has a connection of a publication. It
	// returns once nobody else has any of publications of target that were withdrawn.
	// withdrawn is closed when the publication is withdrawn, through whomever; drop takes
	// the record back and is called once, when no request can reach the target any more.
	Hold(ctx context.Context, target store.ID, epoch uint64) (withdrawn <-chan struct{}, drop func(), err error)
}

// holding is a connection's part in the records of a Holder.
type holding struct {
	drop func()
	stop chan struct{}
	wg   sync.WaitGroup
}

// hold goes on record with a connection that was admitted. The publication is asked for
// once more after that: who withdraws it looks at the records afterwards, so either this
// sees that it is gone, or that one sees the connection.
func (r *Registry) hold(ctx context.Context, e *export, n name) error {
	h, ok := r.src.(Holder)
	if !ok {
		return nil
	}
	withdrawn, drop, err := h.Hold(ctx, n.id, n.epoch)
	if err != nil {
		return refused(fmt.Sprintf("the publication with epoch %d", n.epoch), err)
	}
	e.held = &holding{drop: drop, stop: make(chan struct{})}
	e.held.wg.Go(func() {
		select {
		case <-withdrawn:
			e.conn.Cut()
		case <-e.held.stop:
		}
	})
	_, _, err = r.entitled(ctx, n)
	return err
}

// end takes the connection off the records.
func (h *holding) end() {
	if h == nil {
		return
	}
	close(h.stop)
	h.wg.Wait()
	h.drop()
}
