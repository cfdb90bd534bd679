package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// ErrStale: the log has another generation than the commit was decided on. Nothing
// was written.
var ErrStale = errors.New("the catalogue has changed meanwhile")

// Log keeps the rows. Its methods are not called concurrently.
type Log interface {
	// Load reads all rows and their generation; an empty log has generation 0.
	Load(ctx context.Context) (gen uint64, rows map[string][]byte, err error)
	// Since reads the rows changed after a generation; nil stands for a row that is
	// gone. It answers ErrStale if that is no longer known.
	Since(ctx context.Context, gen uint64) (now uint64, rows map[string][]byte, err error)
	// Commit writes rows, nil deleting them, durably and at once, if the generation is
	// gen; the next one is gen+1.
	Commit(ctx context.Context, gen uint64, rows map[string][]byte) error
}

// Catalogue is a Log with its rows in memory. All methods may be called concurrently.
// Functions given to it must not call it.
type Catalogue struct {
	log Log

	mu    sync.RWMutex
	gen   uint64
	state *State
}

// Open reads the log.
func Open(ctx context.Context, log Log) (*Catalogue, error) {
	c := &Catalogue{log: log}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Catalogue) load(ctx context.Context) error {
	gen, rows, err := c.log.Load(ctx)
	if err != nil {
		return fmt.Errorf("read the catalogue: %w", err)
	}
	s := newState()
	for key, raw := range rows {
		if err := s.apply(key, raw); err != nil {
			return err
		}
	}
	if s.Meta.Version > Version {
		return fmt.Errorf("the catalogue has version %d, this program knows %d: use a newer one: %w", s.Meta.Version, Version, store.ErrUnsupported)
	}
	c.gen, c.state = gen, s
	return nil
}

// refresh brings the state to the log's; it tells whether anything was new.
func (c *Catalogue) refresh(ctx context.Context) (bool, error) {
	now, rows, err := c.log.Since(ctx, c.gen)
	if errors.Is(err, ErrStale) {
		return true, c.load(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("read the catalogue: %w", err)
	}
	for key, raw := range rows {
		if err := c.state.apply(key, raw); err != nil {
			return false, err
		}
	}
	fresh := now != c.gen
	c.gen = now
	return fresh, nil
}

// View calls fn with the state as it is.
func (c *Catalogue) View(ctx context.Context, fn func(*State) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	_, err := c.refresh(ctx)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.Peek(fn)
}

// Peek calls fn with the state as this process last saw it.
func (c *Catalogue) Peek(fn func(*State) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return fn(c.state)
}

// Update calls fn, again if the state was not the newest, and commits what it changed,
// wholly or not at all. It returns the jobs that fn added.
func (c *Catalogue) Update(ctx context.Context, fn func(*Tx) error) ([]store.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		t := &Tx{State: c.state, changed: map[string][]byte{}, before: map[string][]byte{}}
		failed := fn(t)
		if failed == nil && len(t.changed) > 0 {
			err := c.log.Commit(ctx, c.gen, t.changed)
			if err == nil {
				c.gen++
				return t.jobs, nil
			}
			if failed = err; !errors.Is(err, ErrStale) {
				t.undo()
				return nil, fmt.Errorf("write the catalogue: %w", err)
			}
		}
		t.undo()
		fresh, err := c.refresh(ctx)
		switch {
		case err != nil:
			return nil, err
		case !fresh && errors.Is(failed, ErrStale):
			return nil, fmt.Errorf("write the catalogue: %w", failed)
		case !fresh:
			return nil, failed
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}
