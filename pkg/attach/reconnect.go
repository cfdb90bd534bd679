package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Dial makes a fresh connection for a device: it looks the server up anew, asks for a
// new generation and does the handshake. Only the Socket of the Request is used.
type Dial func(ctx context.Context) (Request, error)

// Reconnect gives a device another socket. If this process holds the old one, it is cut
// first; otherwise the server must have ended the old connection, as one does that was
// asked for a new generation. Requests that were under way are sent again within
// Config.IOTimeout.
//
// The kernel takes the new socket only once it has seen the end of the old one. Reconnect
// offers it for Config.AdoptTimeout, then fails with ErrNotAdopted and closes it. It fails
// with ErrGone if the device is no longer there.
func (k *Kernel) Reconnect(ctx context.Context, d Device, r Request) error {
	err := k.redial(ctx, d, func(context.Context) (Request, error) { return r, nil })
	if err != nil {
		_ = r.Socket.Close() // where it was not taken
		return fmt.Errorf("attach: reconnect %s: %w", d, err)
	}
	return nil
}

// redial dials and reconnects. It has its turn on the index from before the dial, which
// makes the server end the old connection: that must not happen while a resize waits
// for the requests on it, see Resize.
func (k *Kernel) redial(ctx context.Context, d Device, dial Dial) error {
	s, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := k.same(d); err != nil {
		return err
	}
	if what := k.stuckIn(s); what != "" {
		return fmt.Errorf("%w: %s has not come back", ErrStuck, what)
	}
	r, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	h, err := takeSocket(r.Socket, d.Backend)
	if err != nil {
		return err
	}
	s.sock.cut()
	if err := k.adopt(ctx, d, h); err != nil {
		h.cut()
		h.close()
		return err
	}
	s.sock.close()
	s.sock = h
	// The device works. Settings that differ, because a resize was interrupted or the
	// configuration has changed, may take until the requests under way are answered.
	if err := k.tune(ctx, d.Index, k.cfg.IOTimeout); err != nil && !errors.Is(err, ErrStuck) {
		return fmt.Errorf("reconnected, but: %w", err)
	}
	return nil
}

func (k *Kernel) stuckIn(s *slot) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return s.stuck
}

// adopt offers the socket until the kernel has taken it. A socket that was not taken is
// untouched and may be offered again.
func (k *Kernel) adopt(ctx context.Context, d Device, h *handle) error {
	witness, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a descriptor that is no socket: %w", err)
	}
	defer unix.Close(witness)
	timer, err := k.timer(d.Index)
	reset := err != nil || timer != k.cfg.IOTimeout
	deadline := time.NewTimer(k.cfg.AdoptTimeout)
	defer deadline.Stop()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if h.hungUp() {
			return errors.New("the server has ended the new connection")
		}
		if taken, err := k.offer(ctx, d, reset, h, witness); taken || err != nil {
			return err
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-deadline.C:
			again.Stop()
			return ErrNotAdopted
		case <-ctx.Done():
			again.Stop()
			return fmt.Errorf("%w (%w)", ErrNotAdopted, ctx.Err())
		}
	}
}

func (k *Kernel) offer(ctx context.Context, d Device, reset bool, h *handle, witness int) (taken bool, err error) {
	fd, err := h.dup()
	if err != nil {
		return false, err
	}
	// The goroutine that is left behind in the kernel must find its descriptors as they
	// are now, not those that got their numbers since.
	second, err := unix.FcntlInt(uintptr(witness), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		_ = unix.Close(fd)
		return false, fmt.Errorf("duplicate: %w", err)
	}
	err = k.call(ctx, reconnectMessage(d, k.cfg.DeadTimeout, reset, fd, second), func(error, bool) {
		_ = unix.Close(fd)
		_ = unix.Close(second)
	})
	switch {
	case err == nil, is(err, unix.ENOSPC):
		return false, nil
	case is(err, unix.ENOTSOCK):
		return true, nil
	case is(err, unix.EINVAL):
		// The kernel compares the backend itself, so this is safe against an index that
		// changed hands since it was looked at.
		if _, gone := k.same(d); gone != nil {
			err = gone
		}
	}
	return false, err
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Restore dials and reconnects until the device works again, with pauses that grow to
// 5 s. It gives up when the context ends, and with ErrGone.
func (k *Kernel) Restore(ctx context.Context, d Device, dial Dial) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := k.redial(ctx, d, dial)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrGone) || errors.Is(err, ErrClosed) {
			return fmt.Errorf("attach: restore %s: %w", d, err)
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return fmt.Errorf("attach: restore %s: %w; last: %w", d, ctx.Err(), err)
		}
	}
}

// Replace puts a fresh connection in the place of one that works, for instance before
// the limit of its key. It waits a second at most for a moment in which no request is
// under way; those that are then are delayed by Config.IOTimeout. The new connection is
// dialled before the old one is cut, so that a server that cannot be reached changes
// nothing. Otherwise it is like Restore.
func (k *Kernel) Replace(ctx context.Context, d Device, dial Dial) error {
	if _, err := k.quiet(ctx, d.Index, time.Second); err != nil {
		return fmt.Errorf("attach: replace the connection of %s: %w", d, err)
	}
	return k.Restore(ctx, d, dial)
}
