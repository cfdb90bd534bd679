package attach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Resize makes the kernel see that the image has grown to size bytes. The same size is
// no error; a smaller one is refused. The server must take requests beyond the old size
// on the connection in use, see the package's sequences.
//
// Kernels since 6.9 change the size only when no request is under way, and hold a lock
// meanwhile that a reconnect needs and that all generic netlink of the host waits for.
// So Resize waits for a moment without requests before it asks for the new size; it fails
// with ErrUnhealthy if the connection has ended, or a request seems to take longer than
// Config.QuietTimeout. If the server dies in the few milliseconds that remain and a
// request comes, Resize returns ErrStuck after Config.CallTimeout, and the device fails
// the requests under way within a minute and can be reconnected then.
func (k *Kernel) Resize(ctx context.Context, d Device, size int64) error {
	if err := k.resize(ctx, d, size); err != nil {
		return fmt.Errorf("attach: resize %s to %d: %w", d, size, err)
	}
	return nil
}

func (k *Kernel) resize(ctx context.Context, d Device, size int64) error {
	s, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return err
	}
	defer leave()
	now, err := k.same(d)
	switch {
	case err != nil:
		return err
	case now.Size == size:
		return nil
	case size < now.Size:
		return fmt.Errorf("it has %d bytes and cannot shrink", now.Size)
	case size%int64(now.BlockSize) != 0:
		return fmt.Errorf("not a multiple of the block size %d", now.BlockSize)
	case s.sock != nil && s.sock.hungUp():
		return fmt.Errorf("%w: its connection has ended", ErrUnhealthy)
	}
	if err := k.flowing(ctx, d.Index); err != nil {
		return err
	}
	if err := k.grow(ctx, d, size); err != nil {
		return err
	}
	if now, err = k.same(d); err != nil {
		return err
	}
	if now.Size != size {
		return fmt.Errorf("it has %d bytes after all", now.Size)
	}
	return nil
}

// grow asks for the new size, with limits in place in case the server dies just then:
// its requests could end neither by a reconnect, which waits for the same lock, nor by a
// timeout, of which there is none otherwise. With the limits they go back to the queue
// after one cfg.armed and fail after another. The request timer comes first, so that
// requests already under way have that long too.
//
// If this process dies in between, the limits stay until the next one's Watch, or
// Reconnect, which see it by the timer.
func (k *Kernel) grow(ctx context.Context, d Device, size int64) error {
	disarm := func() error {
		return errors.Join(k.exec(timeoutsMessage(d, 0, k.cfg.DeadTimeout)), k.writeSettings(d.Index, k.cfg.IOTimeout))
	}
	after := func(_ error, late bool) {
		if late {
			_ = disarm() // who asked has gone
		}
	}
	err := k.tune(ctx, d.Index, k.cfg.armed)
	if err == nil {
		_, err = k.quiet(ctx, d.Index, time.Second)
	}
	if err == nil {
		err = k.call(ctx, timeoutsMessage(d, k.cfg.armed, k.cfg.armed), after)
	}
	if err == nil {
		err = k.call(ctx, resizeMessage(d, size), after)
	}
	if errors.Is(err, ErrStuck) {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	return errors.Join(err,
		k.call(ctx, timeoutsMessage(d, 0, k.cfg.DeadTimeout), after),
		k.tune(ctx, d.Index, k.cfg.IOTimeout))
}

// enough completed requests make it likely that a queue that is never empty is under
// load, and not one that holds a request which is not answered.
const enough = 100

// flowing waits for a moment without requests, or for signs that there are always some
// because there are many.
func (k *Kernel) flowing(ctx context.Context, index int) error {
	before, err := k.completed(index)
	if err != nil {
		return err
	}
	if seen, err := k.quiet(ctx, index, k.cfg.QuietTimeout); seen || err != nil {
		return err
	}
	after, err := k.completed(index)
	if err == nil && after-before < enough {
		err = fmt.Errorf("%w: a request has been under way for %v", ErrUnhealthy, k.cfg.QuietTimeout)
	}
	return err
}

// quiet waits for a moment without requests, no longer than the bound.
func (k *Kernel) quiet(ctx context.Context, index int, bound time.Duration) (seen bool, err error) {
	c, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err = until(c, time.Millisecond, func() (bool, error) {
		busy, err := k.busy(index)
		return !busy, err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// busy tells whether requests are under way.
func (k *Kernel) busy(index int) (bool, error) {
	s, err := k.attr(index, "inflight")
	if err != nil {
		return false, k.lookError(index, err)
	}
	for _, n := range strings.Fields(s) {
		if n != "0" {
			return true, nil
		}
	}
	return false, nil
}

// until polls a condition until it holds or the context ends. It is for states of the
// kernel of which nothing tells.
func until(ctx context.Context, every time.Duration, cond func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
