package volume

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	// copyChunk is how many bytes one request of a copy moves at most.
	copyChunk = 1 << 20
	// copyDepth is how many requests of one copy are in flight.
	copyDepth = 4
)

// copying is a copy that this process works on. record and text belong to whoever
// works on it: the request until startCopy, then the copy's goroutine until done.
type copying struct {
	key    string
	pool   string
	image  string      // name
	m      pool.Member // where it goes
	record copyRecord
	text   string // the note as it stands

	total  int64 // where it ends, in bytes
	cancel context.CancelFunc
	done   chan struct{}
	bytes  atomic.Int64 // how far it is
	moved  atomic.Int64 // bytes of data that were written
	err    error        // why it ended; valid when done is closed
}

func copyKey(poolName, image string) string { return poolName + "/" + image }

// save makes the note say next.
func (c *copying) save(ctx context.Context, next copyRecord) error {
	text := next.encode()
	if err := swap(ctx, c.m, copyNote(c.image), c.text, text); err != nil {
		return fmt.Errorf("copy %s: %w", c.image, err)
	}
	c.record, c.text = next, text
	return nil
}

// adopt makes the note name the image that is filled. Another one than before is empty.
func (c *copying) adopt(ctx context.Context, image store.ID) error {
	if c.record.Image == image {
		return nil
	}
	next := c.record
	next.Image, next.Done = image, 0
	return c.save(ctx, next)
}

// startCopy lets the copy run in the background, unless it does already, and returns
// ErrBusy with its progress.
func (s *Service) startCopy(c *copying) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("copy %s: the controller is stopping: %w", c.image, store.ErrUnavailable)
	}
	if run := s.copies[c.key]; run != nil {
		return run.progress()
	}
	ctx, cancel := context.WithCancel(s.life)
	c.cancel, c.done = cancel, make(chan struct{})
	c.total = c.record.Total
	c.bytes.Store(c.record.Done)
	s.copies[c.key] = c
	s.wg.Add(1)
	go s.runCopy(ctx, c)
	return c.progress()
}

func (c *copying) progress() error {
	return fmt.Errorf("image %s is being copied (%d of %d bytes): %w", c.image, c.bytes.Load(), c.total, store.ErrBusy)
}

// lastCopy tells how the copy stands in this process: ErrBusy while it runs; why it
// failed, once; nil if it is not known or complete.
func (s *Service) lastCopy(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.copies[key]
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		delete(s.copies, key)
		return c.err
	default:
		return c.progress()
	}
}

// stopCopy ends a copy and waits until it does nothing any more.
func (s *Service) stopCopy(ctx context.Context, key string) error {
	s.mu.Lock()
	c := s.copies[key]
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	c.cancel()
	select {
	case <-c.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copies[key] == c {
		delete(s.copies, key)
	}
	return nil
}

// runCopy is the goroutine of a copy.
func (s *Service) runCopy(ctx context.Context, c *copying) {
	defer s.wg.Done()
	defer c.cancel()
	event := func(kind EventKind, err error) {
		s.opts.Event(Event{Kind: kind, Pool: c.pool, Image: c.image, Store: c.m.UUID, Bytes: c.bytes.Load(), Err: err})
	}
	select {
	case s.slots <- struct{}{}:
		event(CopyStarted, nil)
		c.err = s.copy(ctx, c)
		<-s.slots
	case <-ctx.Done():
		c.err = ctx.Err()
	}
	switch {
	case c.err == nil:
		event(CopyDone, nil)
	case ctx.Err() != nil:
		event(CopyCancelled, c.err)
		c.err = nil // whoever asks again starts it again
	default:
		c.err = s.abandon(ctx, c, c.err)
		event(CopyFailed, c.err)
	}
	close(c.done)
}

// copy fills the image from where the note says, and completes it. When all is filled
// the source is not needed, and what was taken for the copy may be gone.
func (s *Service) copy(ctx context.Context, c *copying) error {
	if err := c.inherit(ctx); err != nil {
		return err
	}
	if c.record.Done < c.record.Total {
		if err := s.fill(ctx, c); err != nil {
			return err
		}
	}
	return s.endCopy(ctx, c)
}

// fill copies what is missing, and notes how far it is after each stride.
func (s *Service) fill(ctx context.Context, c *copying) (err error) {
	src, err := s.find(ctx, id{snapshotPrefix, c.record.Pool, c.record.Frozen, c.record.Store})
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	from, err := src.m.Remote.Open(ctx, src.info.ID)
	if err != nil {
		return fmt.Errorf("source %s: %s: %w", src.info.Ref(), src.m, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := c.m.Remote.Open(ctx, c.record.Image)
	if err != nil {
		return c.atTarget(err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	// A store that is full lets a write wait, and one that hangs answers nothing. Whoever
	// deletes the copy, or ends the controller, must not wait with it.
	defer context.AfterFunc(ctx, func() { _ = errors.Join(from.Close(), to.Close()) })()
	for c.record.Done < c.record.Total {
		length := min(s.opts.Stride, c.record.Total-c.record.Done)
		if err := c.stride(ctx, from, to, c.record.Done, length); err != nil {
			return err
		}
		if err := to.Flush(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		next := c.record
		next.Done += length
		if err := c.save(ctx, next); err != nil {
			return err
		}
		failpoint.Hit("volume.copy.progress")
	}
	return nil
}

// inherit hands down what is known of the content, before the first byte: an image that
// is written to by its name without that counts as one that may hold anything.
func (c *copying) inherit(ctx context.Context) error {
	format := c.record.Format
	if format == store.FormatNone {
		format = store.FormatUnknown // whatever it is, nobody may format it
	}
	info, err := c.m.Remote.Stat(ctx, c.record.Image)
	if err != nil {
		return c.atTarget(err)
	}
	if info.Format == format || info.Format == store.FormatUnknown {
		return nil
	}
	if _, err := c.m.Remote.Modify(ctx, c.record.Image, store.Change{Format: &format}); err != nil {
		return c.atTarget(err)
	}
	failpoint.Hit("volume.copy.format")
	return nil
}

// atTarget says where an error came from. An image that somebody else has removed is no
// missing source: a repetition makes it anew.
func (c *copying) atTarget(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%s: %v: %w", c.m, err, store.ErrUnavailable)
	}
	return fmt.Errorf("%s: %w", c.m, err)
}

// stride copies the data in one range.
func (c *copying) stride(ctx context.Context, from, to store.Device, off, length int64) error {
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(copyDepth)
	err := from.Extents(off, length, "", func(e store.Extent) bool {
		if !e.Data || e.Zero {
			c.bytes.Store(e.Offset + e.Length)
			return some.Err() == nil
		}
		for at := e.Offset; at < e.Offset+e.Length && some.Err() == nil; at += copyChunk {
			n := min(copyChunk, e.Offset+e.Length-at)
			g.Go(func() error { return c.chunk(some, from, to, at, n) })
		}
		return some.Err() == nil
	})
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != nil {
		return fmt.Errorf("extents: %w", err)
	}
	return ctx.Err()
}

func (c *copying) chunk(ctx context.Context, from, to store.Device, at, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	buf := make([]byte, n)
	if _, err := from.ReadAt(buf, at); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if _, err := to.WriteAt(buf, at); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	c.moved.Add(n)
	c.bytes.Store(at + n)
	return nil
}

// Copies lists the copies that this process works on, as name of the image → bytes done.
func (s *Service) Copies() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]int64)
	for _, c := range s.copies {
		select {
		case <-c.done:
		default:
			all[c.image] = c.bytes.Load()
		}
	}
	return all
}
