package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// FromStream copies all that r holds to dst and flushes it. Before data lands at or
// beyond an end that was not announced yet, grow is called with the new end; calls
// of grow do not overlap requests beyond the old end. The bytes copied are
// Stats.Bytes.
func FromStream(ctx context.Context, dst Sink, r io.Reader, grow func(end int64) error, o Options) (Stats, error) {
	c := newCopier(dst, o)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.InFlight)
	off, err := c.readAll(gctx, g, r, grow)
	if err := first(g.Wait(), err); err != nil {
		return c.stats, err
	}
	return c.finish(ctx, off)
}

// readAll hands pieces to g until r ends, and returns how many bytes r held.
func (c *copier) readAll(ctx context.Context, g *errgroup.Group, r io.Reader, grow func(int64) error) (int64, error) {
	var off int64
	for ctx.Err() == nil {
		buf := c.buffer()
		n, err := io.ReadFull(r, buf[:])
		if n > 0 {
			if err := grow(off + int64(n)); err != nil {
				return off, err
			}
			at := off
			g.Go(func() error {
				defer c.pool.Put(buf)
				return c.write(buf[:n], at)
			})
			off += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return off, nil
		}
		if err != nil {
			return off, fmt.Errorf("read input at %d: %w", off, err)
		}
	}
	return off, context.Cause(ctx)
}

// span is a part of the source on its way to a writer: its bytes, or zeros.
type span struct {
	off, length int64
	zero        bool
	buf         *[Piece]byte
	ready       chan error
}

// ToStream copies size bytes of src to w, in order, reading ahead.
func ToStream(ctx context.Context, w io.Writer, src Source, size int64, o Options) (Stats, error) {
	c := newCopier(nil, o)
	g, gctx := errgroup.WithContext(ctx)
	queue := make(chan *span, c.o.InFlight)
	g.Go(func() error {
		defer close(queue)
		return c.readAhead(gctx, g, src, size, queue)
	})
	g.Go(func() error { return c.writeAll(gctx, w, queue) })
	if err := g.Wait(); err != nil {
		return c.stats, err
	}
	if c.stats.Bytes != size {
		return c.stats, fmt.Errorf("copied %d of %d bytes: %w", c.stats.Bytes, size, io.ErrUnexpectedEOF)
	}
	return c.stats, nil
}

// readAhead starts the reads in order. The queue's capacity bounds how many.
func (c *copier) readAhead(ctx context.Context, g *errgroup.Group, src Source, size int64, queue chan<- *span) error {
	err := src.Extents(0, size, func(off, length int64, zero bool) bool {
		for length > 0 && ctx.Err() == nil {
			s := &span{off: off, length: min(length, Piece), zero: zero, ready: make(chan error, 1)}
			select {
			case queue <- s:
			case <-ctx.Done():
				return false
			}
			g.Go(func() error { s.read(c, src); return nil })
			off, length = off+s.length, length-s.length
		}
		return ctx.Err() == nil
	})
	return first(err, context.Cause(ctx))
}

func (s *span) read(c *copier, src Source) {
	if s.zero {
		s.ready <- nil
		return
	}
	s.buf = c.buffer()
	p := s.buf[:s.length]
	if n, err := src.ReadAt(p, s.off); n < len(p) {
		s.ready <- fmt.Errorf("read %d bytes at %d: %w", s.length, s.off, unexpected(err))
		return
	}
	s.ready <- nil
}

func (c *copier) writeAll(ctx context.Context, w io.Writer, queue <-chan *span) error {
	zeros := new([Piece]byte)
	for s := range queue {
		select {
		case err := <-s.ready:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p, data := zeros[:s.length], int64(0)
		if !s.zero {
			p, data = s.buf[:s.length], s.length
		}
		if _, err := w.Write(p); err != nil {
			return fmt.Errorf("write output at %d: %w", s.off, err)
		}
		if s.buf != nil {
			c.pool.Put(s.buf)
		}
		c.account(s.length, data)
	}
	return nil
}

// Interruptible returns a reader whose Read ends when ctx does. A read of a pipe
// cannot be interrupted, so the one under way is left behind with its buffer: use it
// only where the process is about to end.
func Interruptible(ctx context.Context, r io.Reader) io.Reader {
	return &interruptible{ctx: ctx, r: r}
}

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	got := make(chan result, 1)
	go func() {
		n, err := i.r.Read(p)
		got <- result{n, err}
	}()
	select {
	case r := <-got:
		return r.n, r.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}
