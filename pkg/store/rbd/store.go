//go:build ceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd/meta"
)

var _ store.Full = (*Store)(nil)

// Store is one gateway of an installation. All methods may be called concurrently.
type Store struct {
	o       Options
	c       *cluster
	cat     *meta.Catalogue
	queue   *jobs.Queue
	load    *jobs.Load
	keys    keyLocks
	handles registry
	opening openings
	slots   chan struct{} // of I/O in the library
	bulk    bulk
	closes  atomic.Int64

	mu   sync.Mutex
	busy map[string]bool // intents that calls are busy with; guarded by mu

	stop    chan struct{} // closed by Close
	wg      sync.WaitGroup
	closing atomic.Bool
	life    sync.RWMutex // held shared by calls, alone by Close
	over    bool         // guarded by life
}

// Open connects to the cluster, ends a gateway of the same name that was not closed,
// finishes what it had begun, and goes on with its jobs.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.filled()
	if err != nil {
		return nil, fmt.Errorf("open the Ceph backend: %w", err)
	}
	c, err := dial(o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, c: c, load: jobs.NewLoad(), slots: make(chan struct{}, o.InFlight), stop: make(chan struct{}),
		handles: registry{byID: map[store.ID]*handle{}},
	}
	if err := s.start(ctx); err != nil {
		for _, h := range s.handles.all() {
			_ = h.end(store.ErrClosed) // the first error is told
		}
		c.close()
		return nil, fmt.Errorf("%s, installation %s: %w", o.place(), o.Installation, err)
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	log := &catalogueLog{io: s.c.io, object: s.prefix() + "catalogue"}
	if s.o.Init {
		if err := log.create(); err != nil {
			return err
		}
	}
	var err error
	if s.cat, err = meta.Open(ctx, log); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("there is no such installation; make it with --init: %w", err)
		}
		return err
	}
	if err := s.join(ctx); err != nil {
		return fmt.Errorf("join as %s: %w", s.o.Member, err)
	}
	if err := s.replay(ctx); err != nil {
		return fmt.Errorf("finish what was begun: %w", err)
	}
	if err := s.strays(ctx); err != nil {
		return fmt.Errorf("look for what nothing needs: %w", err)
	}
	s.queue, err = jobs.Open(jobLog{s}, map[store.JobKind]jobs.Runner{
		store.JobFlatten: s.runFlatten, store.JobDelete: s.runCollect,
	}, jobs.Options{Workers: s.o.Workers, Load: s.load})
	if err != nil {
		return err
	}
	s.wg.Add(1)
	go s.follower()
	return nil
}

// prefix begins the names of all that the installation has in the pool.
func (s *Store) prefix() string { return "strata." + s.o.Installation + "." }

// begin lets a call in until end.
func (s *Store) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.RLock()
	if s.over || s.closing.Load() {
		s.life.RUnlock()
		return fmt.Errorf("store %s: %w", s.o.place(), store.ErrClosed)
	}
	return nil
}

func (s *Store) end() { s.life.RUnlock() }

// update commits a change and hands its jobs to the queue.
func (s *Store) update(ctx context.Context, fn func(*meta.Tx) error) error {
	added, err := s.cat.Update(ctx, fn)
	for _, j := range added {
		if s.queue != nil { // which finds them in the catalogue when it opens
			s.queue.Adopt(j)
		}
	}
	return err
}

// view looks at the newest state.
func (s *Store) view(ctx context.Context, fn func(*meta.State) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	return s.cat.View(ctx, fn)
}

// Closes is how often Close was called.
func (s *Store) Closes() int64 { return s.closes.Load() }

// Close stops background work, waits for what is under way and releases the store.
// Devices still open answer store.ErrClosed.
func (s *Store) Close() error {
	s.closes.Add(1)
	if s.closing.Swap(true) {
		return nil
	}
	close(s.stop)
	s.wg.Wait()
	err := s.queue.Close()
	s.life.Lock()
	defer s.life.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	for _, h := range s.handles.all() {
		err = errors.Join(err, h.end(store.ErrClosed))
	}
	_, e := s.cat.Update(context.Background(), func(t *meta.Tx) error {
		if m := t.Members[s.o.Member]; m.Addresses == s.c.addresses {
			m.Clean = true
			t.PutMember(m)
			s.sawAll(t, m.Name)
		}
		return nil
	})
	s.release()
	s.c.close()
	if err = errors.Join(err, e); err != nil {
		return fmt.Errorf("close %s: %w", s.o.place(), err)
	}
	return nil
}
