package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// Piece is the largest single request, in bytes.
	Piece = 1 << 20
	// Grain is the unit in which zeros are looked for, in bytes.
	Grain = 64 << 10
)

// Source is what is copied from. Methods are called concurrently.
type Source interface {
	io.ReaderAt
	// Extents calls fn for consecutive runs that cover the range, until fn returns
	// false. zero: the run is known to read as zero.
	Extents(off, length int64, fn func(off, length int64, zero bool) bool) error
}

// Sink is what is copied to. Methods are called concurrently, never for
// overlapping ranges.
type Sink interface {
	io.WriterAt
	// Zero makes the range read as zero and gives its space back if it can.
	Zero(off, length int64) error
	Flush() error
}

// Options of a copy.
type Options struct {
	// InFlight is how many requests run at once; 0 means 8.
	InFlight int
	// Blank: the sink reads as zero wherever nothing was written.
	Blank bool
	// Progress is told how many more bytes are done, zeros included. It is called
	// concurrently. May be nil.
	Progress func(bytes int64)
}

// Stats tells what a copy did.
type Stats struct {
	// Bytes covered, and of these, written as data.
	Bytes int64 `json:"bytes"`
	Data  int64 `json:"data"`
}

// copier runs the requests of one copy.
type copier struct {
	dst  Sink
	o    Options
	pool sync.Pool
	mu   sync.Mutex
	// stats is guarded by mu.
	stats Stats
}

func newCopier(dst Sink, o Options) *copier {
	if o.InFlight <= 0 {
		o.InFlight = 8
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	return &copier{dst: dst, o: o, pool: sync.Pool{New: func() any { return new([Piece]byte) }}}
}

func (c *copier) buffer() *[Piece]byte { return c.pool.Get().(*[Piece]byte) }

func (c *copier) account(all, data int64) {
	c.mu.Lock()
	c.stats.Bytes += all
	c.stats.Data += data
	c.mu.Unlock()
	c.o.Progress(all)
}

// Copy copies size bytes from offset 0 of src to dst and flushes dst.
func Copy(ctx context.Context, dst Sink, src Source, size int64, o Options) (Stats, error) {
	c := newCopier(dst, o)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.InFlight)
	err := src.Extents(0, size, func(off, length int64, zero bool) bool {
		for length > 0 && gctx.Err() == nil {
			// A zero run is one request whatever its length; it moves no data.
			n := length
			if !zero {
				n = min(n, Piece-off%Piece)
			}
			at := off
			g.Go(func() error { return c.one(gctx, src, at, n, zero) })
			off, length = off+n, length-n
		}
		return gctx.Err() == nil
	})
	if err := first(g.Wait(), err); err != nil {
		return c.stats, err
	}
	return c.finish(ctx, size)
}

// finish ends a copy without errors. A cancelled context may have ended it early.
func (c *copier) finish(ctx context.Context, size int64) (Stats, error) {
	if err := context.Cause(ctx); err != nil && c.stats.Bytes != size {
		return c.stats, err
	}
	if c.stats.Bytes != size {
		return c.stats, fmt.Errorf("copied %d of %d bytes: %w", c.stats.Bytes, size, io.ErrUnexpectedEOF)
	}
	return c.stats, c.dst.Flush()
}

func (c *copier) one(ctx context.Context, src Source, off, n int64, zero bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if zero {
		return c.zero(off, n)
	}
	buf := c.buffer()
	defer c.pool.Put(buf)
	p := buf[:n]
	if got, err := src.ReadAt(p, off); got < len(p) {
		return fmt.Errorf("read %d bytes at %d: %w", n, off, unexpected(err))
	}
	return c.write(p, off)
}

func (c *copier) zero(off, n int64) error {
	if !c.o.Blank {
		if err := c.dst.Zero(off, n); err != nil {
			return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
		}
	}
	c.account(n, 0)
	return nil
}

// write writes p at off, leaving out or zeroing runs of zeros.
func (c *copier) write(p []byte, off int64) error {
	for len(p) > 0 {
		n, zero := run(p, off)
		if zero {
			if err := c.zero(off, int64(n)); err != nil {
				return err
			}
		} else {
			if _, err := c.dst.WriteAt(p[:n], off); err != nil {
				return fmt.Errorf("write %d bytes at %d: %w", n, off, err)
			}
			c.account(int64(n), int64(n))
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// run measures the first run of p, which lies at off: grains that are all zero, or
// grains that are not.
func run(p []byte, off int64) (n int, zero bool) {
	for n < len(p) {
		end := min(len(p), n+Grain-int((off+int64(n))%Grain))
		z := isZero(p[n:end])
		if n > 0 && z != zero {
			break
		}
		zero, n = z, end
	}
	return n, zero
}

func isZero(p []byte) bool {
	if len(p) == 0 || p[0] != 0 {
		return len(p) == 0
	}
	return bytes.Equal(p[1:], p[:len(p)-1])
}

// first returns the first error there is: the cause, without what it led to.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func unexpected(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
