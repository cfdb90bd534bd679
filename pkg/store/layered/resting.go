package layered

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
)

// jobSums is the background job that computes the checksums of a sealed layer.
const jobSums store.JobKind = "checksum"

// resting remembers which layers were sealed or changed lately. Those that are left
// alone for a while get their checksums; a scrub finds the others, so none of this needs
// to survive a crash.
type resting struct {
	mu    sync.Mutex
	since map[meta.LayerID]time.Time
}

func (r *resting) add(id meta.LayerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since == nil {
		r.since = map[meta.LayerID]time.Time{}
	}
	r.since[id] = time.Now()
}

// due returns and forgets those that have rested that long.
func (r *resting) due(rest time.Duration) (ids []meta.LayerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, since := range r.since {
		if time.Since(since) >= rest {
			ids = append(ids, id)
			delete(r.since, id)
		}
	}
	return ids
}

// rest has the checksums of a sealed layer computed once it is left alone.
func (st *Store) rest(id meta.LayerID) {
	if st.opts.SumAfter > 0 {
		st.resting.add(id)
	}
}

// restEvery is how often the watcher of resting layers and scrubs looks, at least.
const restEvery = time.Minute

// watchRest queues checksums and scrubs when they are due.
func (st *Store) watchRest(ctx context.Context) {
	every := restEvery
	for _, d := range []time.Duration{st.opts.SumAfter, st.opts.ScrubEvery} {
		if d > 0 {
			every = min(every, max(d/2, time.Millisecond))
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		st.queueDue()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (st *Store) queueDue() {
	if st.opts.SumAfter > 0 {
		for _, id := range st.resting.due(st.opts.SumAfter) {
			row, err := st.layerRow(id)
			if err != nil {
				continue // merged or removed meanwhile
			}
			if _, err := st.jobs.Add(jobs.New(jobSums, fmt.Sprint(id), row.Data*blockSize)); err != nil && !errors.Is(err, store.ErrClosed) {
				st.opts.OnEvent(Event{fmt.Sprintf("layer %d", id), "its checksums could not be queued; the next scrub computes them", err})
			}
		}
	}
	if st.opts.ScrubEvery <= 0 || st.closed.Load() {
		return
	}
	if last := st.scrubs.get(); time.Since(last.Began) < st.opts.ScrubEvery {
		return
	}
	if _, there := st.jobs.Find(store.JobScrub, st.UUID()); there {
		return // also one that has failed: the operator looks at it first
	}
	if _, err := st.StartScrub(context.Background()); err != nil && !errors.Is(err, store.ErrClosed) {
		st.opts.OnEvent(Event{"scrub", "it could not be queued", err})
	}
}

// runSums is the job of one layer. It reads as a scrub does, and tells as a scrub does.
func (st *Store) runSums(ctx context.Context, t *jobs.Task) error {
	id, err := layerTarget(t.Job())
	if err != nil {
		return err
	}
	row, err := st.layerRow(id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !row.Sealed {
		return nil
	}
	if err != nil {
		return err
	}
	done := int64(0)
	err = st.scrubLayer(ctx, row, func(ctx context.Context, bytes int) error {
		done += int64(bytes)
		t.Progress(done, max(t.Job().Total, done), 0)
		return t.Pace(ctx, bytes)
	})
	if errors.Is(err, errChanging) {
		st.rest(id) // it comes again when that has ended
		return nil
	}
	return err
}
