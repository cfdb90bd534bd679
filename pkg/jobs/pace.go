package jobs

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

const (
	// burstLeast and burstMost bound the bytes that may pass at once under a rate,
	// which is otherwise a tenth of a second's worth.
	burstLeast = 64 << 10
	burstMost  = 16 << 20
	// pauseMost is the longest single pause for the foreground.
	pauseMost = 500 * time.Millisecond
	// shareMost is the longest pause as a multiple of the work before it: background
	// work gets a tenth of the time at least.
	shareMost = 9.0
)

// pacer slows background work down. Its methods may be called concurrently.
type pacer struct {
	limit *rate.Limiter // of all jobs
	idle  *rate.Limiter // of idle ones, beside that
	load  *Load
}

func newPacer(bytesPerSecond, idle int64, load *Load) *pacer {
	p := &pacer{limit: rate.NewLimiter(rate.Inf, burstLeast), idle: rate.NewLimiter(rate.Inf, burstLeast), load: load}
	setRate(p.limit, bytesPerSecond)
	setRate(p.idle, idle)
	return p
}

func setRate(l *rate.Limiter, bytesPerSecond int64) {
	if bytesPerSecond <= 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(int(min(max(bytesPerSecond/10, burstLeast), burstMost)))
	l.SetLimit(rate.Limit(bytesPerSecond))
}

// stretch is the work of one run between two waits.
type stretch struct {
	start time.Time
	ops   uint64 // foreground operations begun before it
}

func (s *stretch) begin(l *Load) {
	s.start = time.Now()
	if l != nil {
		s.ops = l.begun.Load()
		l.working.Add(1)
	}
}

func (s *stretch) end(l *Load) {
	if l != nil {
		l.working.Add(-1)
	}
}

// pace ends a stretch of work, waits and begins the next.
func (p *pacer) pace(ctx context.Context, s *stretch, bytes int, idle, urgent bool) error {
	worked := time.Since(s.start)
	s.end(p.load)
	defer s.begin(p.load)
	if err := await(ctx, p.limit, bytes); err != nil {
		return err
	}
	if idle {
		if err := await(ctx, p.idle, bytes); err != nil {
			return err
		}
	}
	if p.load == nil || urgent {
		return ctx.Err()
	}
	return sleep(ctx, p.load.pause(worked, s.ops))
}

// await lets bytes pass a limiter.
func await(ctx context.Context, l *rate.Limiter, bytes int) error {
	for bytes > 0 {
		n := min(bytes, l.Burst())
		if err := l.WaitN(ctx, n); err != nil {
			if ctx.Err() == nil && n > l.Burst() {
				continue // the burst was lowered meanwhile
			}
			return fmt.Errorf("wait for the byte rate: %w", err)
		}
		bytes -= n
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("yield to the foreground: %w", context.Cause(ctx))
	}
}
