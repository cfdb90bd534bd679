package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

var (
	// ErrToken: a page was asked for with a token that no list has handed out.
	ErrToken = errors.New("invalid token")
	// ErrLimit: a node has as many volumes as it can take.
	ErrLimit = errors.New("limit reached")
)

// Pools is what the use-cases need of the pools; *pool.Set is one.
type Pools interface {
	Names() []string
	// Settings and View take "" for the default pool; ErrNotFound without such a pool.
	Settings(name string) (pool.Settings, error)
	View(ctx context.Context, name string) (pool.View, error)
	// Fresh is View as of now.
	Fresh(ctx context.Context, name string) (pool.View, error)
	// Find and Reach wait for a store as long as the context lasts; views do not.
	Find(ctx context.Context, name, uuid string) (pool.Member, error)
	Reach(ctx context.Context, v pool.View, x pool.Missing) (pool.Member, error)
}

// Options of a Service; zero values have defaults.
type Options struct {
	// Timeout bounds one request's work, copies excepted; 5 min if 0.
	Timeout time.Duration
	// Copies is how many copies run at once; 2 if 0.
	Copies int
	// Stride is how many bytes of the image lie between two notes of a copy's progress;
	// 256 MiB if 0.
	Stride int64
	// Event is told what happens in the background. It must not block. Optional.
	Event func(Event)
}

// Service offers the use-cases. Safe for concurrent use.
type Service struct {
	pools Pools
	opts  Options
	life  context.Context
	stop  context.CancelFunc
	slots chan struct{} // one for each copy that may run

	mu     sync.Mutex
	closed bool
	busy   map[string]bool     // objects that a request works on
	copies map[string]*copying // by key of plan or record
	nodes  map[string]chan struct{}
	wg     sync.WaitGroup
}

// New makes a Service. Close must be called.
func New(pools Pools, opts Options) *Service {
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Minute
	}
	if opts.Copies == 0 {
		opts.Copies = 2
	}
	if opts.Stride == 0 {
		opts.Stride = 256 << 20
	}
	if opts.Event == nil {
		opts.Event = func(Event) {}
	}
	life, stop := context.WithCancel(context.Background())
	return &Service{
		pools: pools, opts: opts, life: life, stop: stop, slots: make(chan struct{}, opts.Copies),
		busy: make(map[string]bool), copies: make(map[string]*copying), nodes: make(map[string]chan struct{}),
	}
}

// Close ends all work and waits for it. What was begun is taken up when the request is
// repeated, by this or another controller.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	return nil
}

// begin takes the right to work on the object named by key, without waiting.
func (s *Service) begin(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fmt.Errorf("%s: the controller is stopping: %w", key, store.ErrUnavailable)
	case s.busy[key]:
		return fmt.Errorf("%s: another request for it is under way: %w", key, store.ErrBusy)
	}
	s.busy[key] = true
	s.wg.Add(1)
	return nil
}

// end gives the right back. Until then Close waits.
func (s *Service) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, key)
	s.wg.Done()
}

// run works on the object named by key. When ctx ends, run returns and the work goes
// on; until it is done, others get ErrBusy.
func run[T any](ctx context.Context, s *Service, key string, work func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := s.begin(key); err != nil {
		return none, err
	}
	done := make(chan result, 1)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout)
		defer cancel()
		defer context.AfterFunc(s.life, cancel)()
		value, err := work(ctx)
		s.end(key)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w; the work goes on", key, ctx.Err())
	}
}

// EventKind says what an Event is about.
type EventKind string

const (
	// CopyStarted: a copy between stores began or was taken up again.
	CopyStarted EventKind = "copy started"
	// CopyDone: the copy is a volume now.
	CopyDone EventKind = "copy done"
	// CopyFailed: the copy stopped; Err says why. A repeated request takes it up.
	CopyFailed EventKind = "copy failed"
	// CopyCancelled: the copy was deleted while it was under way.
	CopyCancelled EventKind = "copy cancelled"
	// Forwarded: a full store was left for another one.
	Forwarded EventKind = "forwarded"
	// Deepened: a clone is deeper than its soft limit, so its store flattens something.
	Deepened EventKind = "deepened"
)

// Event tells of something that happens without a request's answer saying it.
type Event struct {
	Kind  EventKind
	Pool  string
	Image string // the image's name
	Store string // UUID of the store on which it is made
	Bytes int64  // read for it so far
	Err   error
	// ID, Depth and Soft are set for Deepened: the image, its depth and its soft limit, in
	// clone links.
	ID          store.ID
	Depth, Soft int
}

// swapped makes a lost race for a note what it is: the request has to be repeated. So it
// has where a note has no room: what was made before is there, and store.ErrNoSpace would
// promise that nothing is.
func swapped(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%v: somebody else was quicker: %w", err, store.ErrBusy)
	}
	return unsure(err)
}

// unsure takes the promise that nothing was made out of an error of which that is not
// known: of store.ErrNoSpace only its text is left.
func unsure(err error) error {
	if errors.Is(err, store.ErrNoSpace) {
		return fmt.Errorf("%v: %w", err, store.ErrUnavailable)
	}
	return err
}

// note reads a note of a member; "" if there is none.
func note(ctx context.Context, m pool.Member, key string) (string, error) {
	value, err := m.Remote.Note(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", m, err)
	}
	return value, nil
}

// swap changes a note of a member.
func swap(ctx context.Context, m pool.Member, key, old, value string) error {
	if old == value {
		return nil
	}
	if err := m.Remote.SwapNote(ctx, key, old, value); err != nil {
		return fmt.Errorf("%s: %w", m, swapped(err))
	}
	return nil
}

// clear removes a note, whatever it says.
func clear(ctx context.Context, m pool.Member, key string) error {
	old, err := note(ctx, m, key)
	if err != nil {
		return err
	}
	return swap(ctx, m, key, old, "")
}
