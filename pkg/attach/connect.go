package attach

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Connect makes a device of a connection, at a free index of the range. When it returns,
// the device node is there, and size, block size and backend identifier are as asked for.
// On failure nothing is left behind, except with ErrStuck: then a device that the kernel
// makes after all is disconnected when it does.
func (k *Kernel) Connect(ctx context.Context, r Request) (Device, error) {
	h, err := takeSocket(r.Socket, r.Backend)
	if err == nil {
		if err = r.check(); err != nil {
			h.close()
		}
	}
	if err != nil {
		return Device{}, fmt.Errorf("attach: connect %s: %w", r.Backend, err)
	}
	d, err := k.connect(ctx, h, r)
	if err != nil {
		h.close()
		return Device{}, fmt.Errorf("attach: connect %s: %w", r.Backend, err)
	}
	return d, nil
}

func (k *Kernel) connect(ctx context.Context, h *handle, r Request) (Device, error) {
	free, err := k.free()
	if err != nil {
		return Device{}, err
	}
	// EINVAL may mean an index that is on its way out, or a request that no index takes.
	refusals := 0
	for _, index := range free {
		d, err := k.connectAt(ctx, index, h, r)
		switch {
		case err == nil:
			k.took(index)
			return d, nil
		case is(err, unix.EBUSY, unix.EEXIST):
		case is(err, unix.EINVAL) && refusals < 2:
			refusals++
		default:
			return Device{}, err
		}
	}
	return Device{}, fmt.Errorf("%w in %d to %d: widen the range or detach something", ErrFull, k.cfg.First, k.cfg.Last)
}

func (k *Kernel) took(index int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next = index + 1; k.next > k.cfg.Last {
		k.next = k.cfg.First
	}
}

func (k *Kernel) connectAt(ctx context.Context, index int, h *handle, r Request) (Device, error) {
	s, leave, err := k.enter(ctx, index)
	if err != nil {
		return Device{}, err
	}
	defer leave()
	fd, err := h.dup()
	if err != nil {
		return Device{}, err
	}
	err = k.call(ctx, connectMessage(index, r, k.cfg.DeadTimeout, fd), func(err error, late bool) {
		_ = unix.Close(fd)
		if late && err == nil {
			_ = k.exec(message{cmdDisconnect, index, nil}) // nobody else knows of it
		}
	})
	if err != nil {
		return Device{}, err
	}
	d, err := k.settle(ctx, Device{Index: index, Backend: r.Backend}, r)
	if err != nil {
		h.cut()
		return d, k.undo(ctx, index, err)
	}
	s.sock.close()
	s.sock = h
	return d, nil
}

// undo takes back a CONNECT, even when the caller's context has ended.
func (k *Kernel) undo(ctx context.Context, index int, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.cfg.CallTimeout)
	defer cancel()
	err := k.call(ctx, message{cmdDisconnect, index, nil}, func(error, bool) {})
	if err == nil {
		err = k.waitGone(ctx, index, "")
	}
	if err != nil {
		return fmt.Errorf("%w; and it could not be undone: %w", why, err)
	}
	return why
}

// settle sets what netlink cannot and checks the outcome.
func (k *Kernel) settle(ctx context.Context, d Device, r Request) (Device, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	if err := k.waitNode(ctx, d.Index); err != nil {
		return d, err
	}
	if err := k.tune(ctx, d.Index, k.cfg.IOTimeout); err != nil {
		return d, err
	}
	now, err := k.same(d)
	if err != nil {
		return d, err
	}
	if now.Size != r.Size || now.BlockSize != r.BlockSize {
		return d, fmt.Errorf("%s has size %d and block size %d, asked for were %d and %d", now, now.Size, now.BlockSize, r.Size, r.BlockSize)
	}
	if want := r.Flags&readOnlyFlag != 0; now.ReadOnly != want {
		return d, fmt.Errorf("%s is read-only: %t, the server said %t", now, now.ReadOnly, want)
	}
	return now, nil
}

// tune sets the request timer and turns the I/O scheduler off. The timer is what brings
// requests of a dead connection to the new one. Newer kernels let requests under way
// finish before they change such a setting, so what is right already is not written, and
// a write may take as long as a server does.
func (k *Kernel) tune(ctx context.Context, index int, timer time.Duration) error {
	done, err := k.bounded(ctx, k.cfg.CallTimeout, func() error { return k.writeSettings(index, timer) }, func(err error) {
		if err == nil && timer != k.cfg.IOTimeout {
			_ = k.writeSettings(index, k.cfg.IOTimeout) // who asked has gone
		}
		k.found(err)
	})
	if !done {
		return fmt.Errorf("settings of nbd%d: %w: %w", index, ErrStuck, err)
	}
	return err
}

func (k *Kernel) writeSettings(index int, timer time.Duration) error {
	if now, err := k.timer(index); err != nil || now != timer {
		ms := strconv.FormatInt(timer.Milliseconds(), 10)
		if err := k.setAttr(index, ms, "queue", "io_timeout"); err != nil {
			return fmt.Errorf("set the request timer: %w", err)
		}
	}
	if now, err := k.attr(index, "queue", "scheduler"); err != nil || now != "none" && !strings.Contains(now, "[none]") {
		if err := k.setAttr(index, "none", "queue", "scheduler"); err != nil {
			return fmt.Errorf("turn the I/O scheduler off: %w", err)
		}
	}
	return nil
}

func (k *Kernel) timer(index int) (time.Duration, error) {
	ms, err := k.number(index, "queue", "io_timeout")
	return time.Duration(ms) * time.Millisecond, err
}

// waitNode waits until the node is there and is that of this device: a node of an
// earlier device with the same name may linger where udev is slow.
func (k *Kernel) waitNode(ctx context.Context, index int) error {
	var last error
	err := until(ctx, 2*time.Millisecond, func() (bool, error) {
		last = k.checkNode(index)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w (%w): is devtmpfs mounted there?", k.node(index), err, last)
	}
	return nil
}

func (k *Kernel) checkNode(index int) error {
	want, err := k.attr(index, "dev")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(k.node(index), &st); err != nil {
		return err
	}
	if got := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)); got != want {
		return fmt.Errorf("the node is device %s, not %s", got, want)
	}
	return nil
}

// waitGone waits until the index is free: the disk is away, or it is not connected any
// more or to something else than backend.
func (k *Kernel) waitGone(ctx context.Context, index int, backend string) error {
	err := until(ctx, 5*time.Millisecond, func() (bool, error) {
		d, err := k.look(index)
		if errors.Is(err, ErrGone) {
			return true, nil
		}
		return err == nil && backend != "" && d.Backend != backend, err
	})
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("nbd%d: %w: unmount it and end what uses it (%w)", index, ErrInUse, err)
	}
	return err
}
