package layered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// watchIdle marks the heads of images clean that nothing was written to for a while,
// so that a power failure costs only busy images their publication. The next write
// takes the mark away, durably, before it is answered.
func (st *Store) watchIdle(ctx context.Context) {
	tick := time.NewTicker(st.opts.IdleAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			st.markIdle()
		case <-ctx.Done():
			return
		}
	}
}

func (st *Store) startIdle() {
	ctx, stop := context.WithCancel(context.Background())
	st.stopIdle = stop
	if st.opts.IdleAfter > 0 {
		st.idle.Go(func() { st.watchIdle(ctx) })
	}
	if st.opts.SumAfter > 0 || st.opts.ScrubEvery > 0 {
		st.idle.Go(func() { st.watchRest(ctx) })
	}
}

// markIdle marks what was not written to since it was called before.
func (st *Store) markIdle() {
	st.mu.Lock()
	images := make([]*image, 0, len(st.images))
	for _, im := range st.images {
		if im.kind == store.KindImage {
			images = append(images, im)
		}
	}
	st.mu.Unlock()
	for _, im := range images {
		if n := im.writes.Load(); im.seen.Swap(n) != n {
			continue
		}
		if err := im.markClean(); err != nil && !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrClosed) {
			st.opts.OnEvent(Event{im.view.name, "it could not be marked clean", fmt.Errorf("mark clean: %w", err)})
		}
	}
}

func (im *image) markClean() error {
	im.gate.RLock()
	if im.head == nil || im.st.closed.Load() {
		im.gate.RUnlock()
		return nil
	}
	ref := im.st.layers.acquire(im.head.id)
	im.gate.RUnlock()
	defer im.st.layers.release(ref)
	lay, err := ref.get()
	if err == nil {
		err = lay.MarkClean()
	}
	if err != nil && !errors.Is(err, store.ErrBusy) {
		im.st.noticePoison(im, err)
	}
	return err
}
