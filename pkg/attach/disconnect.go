package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long the kernel may take to tell the server good-bye before the
// connection is cut under it.
const grace = time.Second

// Disconnect ends a device and waits until its index is free. What is still under way
// fails with EIO, so the caller unmounts first. A device that is not there any more, or
// whose index belongs to another backend, is no error.
//
// It is bounded by Config.CallTimeout and the context: ErrStuck means that the kernel
// waits for a server that does not read, over a socket this process does not hold;
// ErrInUse that somebody has the device open. Both may be tried again.
func (k *Kernel) Disconnect(ctx context.Context, d Device) error {
	if err := k.disconnect(ctx, d); err != nil {
		return fmt.Errorf("attach: disconnect %s: %w", d, err)
	}
	return nil
}

func (k *Kernel) disconnect(ctx context.Context, d Device) error {
	s, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := k.same(d); errors.Is(err, ErrGone) {
		k.forget(s, d.Backend)
		return nil
	} else if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	if s.sock != nil {
		// A send that hangs in the kernel keeps DISCONNECT from its lock until then.
		cut := time.AfterFunc(grace, s.sock.cut)
		defer cut.Stop()
	}
	err = k.call(ctx, message{cmdDisconnect, d.Index, nil}, func(error, bool) {})
	if err != nil && !is(err, unix.EINVAL) { // EINVAL: it has gone or is going
		return err
	}
	if err := k.waitGone(ctx, d.Index, d.Backend); err != nil {
		return err
	}
	k.forget(s, d.Backend)
	return nil
}

// forget gives up the socket of a device that is gone. The caller has its turn on s.
func (k *Kernel) forget(s *slot, backend string) {
	if s.sock != nil && s.sock.backend == backend {
		s.sock.cut()
		s.sock.close()
		s.sock = nil
	}
}
