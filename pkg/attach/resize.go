package attach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Resize makes the kernel see that the image has grown to size bytes. The same size is
// no error; a smaller one is refused. The server must take requests beyond the old size
// on the connection in use, see the package's sequences.
//
// Kernels since 6.9 change the size only when no request is under way, and hold a lock
// meanwhile that a reconnect needs and that all generic netlink of the host waits for.
// So Resize makes sure that the server answers, and waits for a moment without requests,
// before it asks for the new size; it fails with ErrUnhealthy if a read takes longer than
// Config.ProbeTimeout or a request seems to take that long. If the server dies in the
// few milliseconds that remain, Resize returns ErrStuck after Config.CallTimeout, and
// the device fails the requests under way within a minute and can be reconnected then.
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
	if err := k.probe(ctx, now); err != nil {
		return err
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
// If this process dies in between, the limits stay until the next Reconnect, which sees
// it by the timer.
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

// Probe reads one block from the server. It fails with ErrUnhealthy if that takes longer
// than Config.ProbeTimeout; the read then stays behind in the kernel until the device is
// reconnected or disconnected, and while it does no further one is begun.
func (k *Kernel) Probe(ctx context.Context, d Device) error {
	s, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return fmt.Errorf("attach: probe %s: %w", d, err)
	}
	defer leave()
	now, err := k.same(d)
	if err == nil && s.sock != nil && s.sock.hungUp() {
		err = fmt.Errorf("%w: its connection has ended", ErrUnhealthy)
	}
	if err == nil {
		err = k.probe(ctx, now)
	}
	if err != nil {
		return fmt.Errorf("attach: probe %s: %w", d, err)
	}
	return nil
}

func (k *Kernel) probe(ctx context.Context, d Device) error {
	k.mu.Lock()
	s := k.slots[d.Index]
	if s.probing {
		k.mu.Unlock()
		return fmt.Errorf("%w: an earlier read has not come back", ErrUnhealthy)
	}
	s.probing = true
	k.work.Add(1)
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, k.cfg.ProbeTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer k.work.Done()
		err := k.cfg.read(d)
		k.mu.Lock()
		s.probing = false
		k.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnhealthy, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w within %v: %w", ErrUnhealthy, k.cfg.ProbeTimeout, ctx.Err())
	}
}

// readBlock reads the first block past the page cache, so that the server must answer.
func readBlock(d Device) error {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.Path, err)
	}
	defer unix.Close(fd)
	// Direct I/O wants an aligned buffer, and a mapping begins with a page.
	buf, err := unix.Mmap(-1, 0, d.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map a buffer: %w", err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	if _, err := unix.Pread(fd, buf, 0); err != nil {
		return fmt.Errorf("read from %s: %w", d.Path, err)
	}
	return nil
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
	if seen, err := k.quiet(ctx, index, k.cfg.ProbeTimeout); seen || err != nil {
		return err
	}
	after, err := k.completed(index)
	if err == nil && after-before < enough {
		err = fmt.Errorf("%w: a request has been under way for %v", ErrUnhealthy, k.cfg.ProbeTimeout)
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
