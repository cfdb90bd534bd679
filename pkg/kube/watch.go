package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// Store is what is watched of a store; its client is one.
type Store interface {
	Jobs(ctx context.Context) ([]store.Job, error)
	WatchJob(ctx context.Context, job string, fn func(store.Job) error) error
	Stat(ctx context.Context, id store.ID) (store.Info, error)
	Lookup(ctx context.Context, ref string) (store.Info, error)
	Walk(ctx context.Context, fn func(store.Info) error) error
}

// Source is a store that answers.
type Source struct {
	// UUID is the store's own.
	UUID  string
	Store Store
	// Faulty is what its last status names.
	Faulty []store.Problem
}

// WatchOptions of a Watcher; zero values have defaults.
type WatchOptions struct {
	// Sources returns the stores that can be reached now. Required.
	Sources func(ctx context.Context) []Source
	// Tell takes in a notice; it must not block. Required.
	Tell func(Notice)
	// Every is how often stores are asked for jobs; 5 s if 0.
	Every time.Duration
	// Progress is the shortest time between two notices of one flatten's progress; 30 s
	// if 0.
	Progress time.Duration
}

const (
	// mostJobs is how many jobs are followed at once; others have their turn later.
	mostJobs = 128
	// mostDeep is how many deep clones are remembered until they are within their limit.
	mostDeep = 1024
	// askTime bounds what one store is asked for.
	askTime = 10 * time.Second
)

// Watcher follows the flattens of stores. Safe for concurrent use.
type Watcher struct {
	opts WatchOptions
	ctx  context.Context
	stop context.CancelFunc
	wake chan struct{} // capacity 1
	wg   sync.WaitGroup

	mu    sync.Mutex
	jobs  map[string]*track // by store and job
	deep  map[store.ID]Deep
	ended bool
	// faults of the last look, by store; of the loop alone.
	faults map[string][]store.Problem
}

// Deep is a clone that is deeper than its soft limit.
type Deep struct {
	// Store is the UUID of the clone's store.
	Store string
	Image store.ID
	Name  string
	// Depth and Soft are clone links, as of its creation.
	Depth, Soft int
}

// Watch starts a watcher. Close must be called.
func Watch(o WatchOptions) *Watcher {
	if o.Every == 0 {
		o.Every = 5 * time.Second
	}
	if o.Progress == 0 {
		o.Progress = 30 * time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Watcher{
		opts: o, ctx: ctx, stop: stop, wake: make(chan struct{}, 1), jobs: make(map[string]*track),
		deep: make(map[store.ID]Deep), faults: make(map[string][]store.Problem),
	}
	w.wg.Add(1)
	go w.run()
	return w
}

// Close ends the watcher.
func (w *Watcher) Close() error {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.stop()
	w.wg.Wait()
	return nil
}

// Look makes the watcher ask the stores now. It does not wait.
func (w *Watcher) Look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Deepened tells of a clone that was made deeper than its limit. The user hears of it,
// and of its end, even if the flatten is too quick to be seen. It does not wait.
func (w *Watcher) Deepened(d Deep) {
	w.mu.Lock()
	if len(w.deep) < mostDeep {
		w.deep[d.Image] = d
	}
	w.mu.Unlock()
	w.opts.Tell(Notice{
		About: Subject{Name: d.Name, UUID: string(d.Image)}, Reason: CloneDeep,
		Text: fmt.Sprintf("The clone depth is %d, and its soft limit %d: what lies between is flattened in the background. The volume can be used at once.", d.Depth, d.Soft),
	})
	w.Look()
}

func (w *Watcher) run() {
	defer w.wg.Done()
	ticker := time.NewTicker(w.opts.Every)
	defer ticker.Stop()
	for {
		sources := w.opts.Sources(w.ctx)
		for _, s := range sources {
			w.look(s)
		}
		w.depths(sources)
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		case <-w.wake:
		}
	}
}

// look asks one store.
func (w *Watcher) look(s Source) {
	ctx, cancel := context.WithTimeout(w.ctx, askTime)
	defer cancel()
	w.faulty(ctx, s)
	all, err := s.Store.Jobs(ctx)
	if err != nil {
		return // the next look may find it back; who needs the store says what is wrong
	}
	listed := make(map[string]bool)
	for _, j := range all {
		if j.Kind == store.JobFlatten {
			listed[s.UUID+" "+j.ID] = true
			w.follow(s, j)
		}
	}
	// Jobs that ended while nobody followed them.
	for _, t := range w.lost(s.UUID, listed) {
		w.follow(s, t)
	}
}

// depths tells of clones that are within their limits again.
func (w *Watcher) depths(sources []Source) {
	w.mu.Lock()
	var all []Deep
	for _, d := range w.deep {
		all = append(all, d)
	}
	w.mu.Unlock()
	for _, d := range all {
		i := slices.IndexFunc(sources, func(s Source) bool { return s.UUID == d.Store })
		if i < 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(w.ctx, askTime)
		info, err := sources[i].Store.Stat(ctx, d.Image)
		cancel()
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil || info.Depth > max(d.Soft, info.Policy.Soft):
			continue
		default:
			w.opts.Tell(Notice{
				About: Subject{Name: d.Name, UUID: string(d.Image)}, Reason: CloneDepthLowered,
				Text: fmt.Sprintf("The clone depth is %d now, down from %d.", info.Depth, d.Depth),
			})
		}
		w.mu.Lock()
		delete(w.deep, d.Image)
		w.mu.Unlock()
	}
}

// faulty tells of what a store has newly found damaged.
func (w *Watcher) faulty(ctx context.Context, s Source) {
	known := w.faults[s.UUID]
	delete(w.faults, s.UUID)
	for _, p := range s.Faulty {
		if slices.Contains(known, p) {
			w.faults[s.UUID] = append(w.faults[s.UUID], p)
			continue
		}
		info, err := s.Store.Lookup(ctx, p.Object)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
			continue // asked for again with the next look
		}
		w.faults[s.UUID] = append(w.faults[s.UUID], p)
		if err != nil {
			continue // an internal object, or an image that is gone
		}
		w.opts.Tell(Notice{
			About:  Subject{Snapshot: info.Kind == store.KindSnapshot, Name: info.Name, UUID: string(info.ID)},
			Reason: VolumeFaulty, Key: p.Text, Text: p.Text,
		})
	}
}
