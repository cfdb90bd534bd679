package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The nbd family of generic netlink, from linux/nbd-netlink.h.
const (
	familyName = "nbd"
	groupName  = "nbd_mc_group"
	version    = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrClientFlags = 6
	attrSockets     = 7
	attrDeadTimeout = 8
	attrBackend     = 10

	sockItem = 1
	sockFD   = 1

	destroyOnDisconnect = 1 // client flag
	readOnlyFlag        = 2 // transmission flag
)

// message is one request to the nbd family.
type message struct {
	cmd   uint8
	index int
	attrs func(*netlink.AttributeEncoder)
}

func (m message) encode() (genetlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, uint32(m.index))
	if m.attrs != nil {
		m.attrs(e)
	}
	data, err := e.Encode()
	if err != nil {
		return genetlink.Message{}, err
	}
	return genetlink.Message{Header: genetlink.Header{Command: m.cmd, Version: version}, Data: data}, nil
}

// flags: the kernel answers CONNECT with a message of its own. Were an
// acknowledgement asked for as well, it would stay in the socket and be taken for the
// answer to the next request.
func (m message) flags() netlink.HeaderFlags {
	if m.cmd == cmdConnect {
		return netlink.Request
	}
	return netlink.Request | netlink.Acknowledge
}

func (m message) name() string {
	switch m.cmd {
	case cmdConnect:
		return "CONNECT"
	case cmdDisconnect:
		return "DISCONNECT"
	default:
		return "RECONFIGURE"
	}
}

func connectMessage(index int, r Request, dead time.Duration, fd int) message {
	return message{cmdConnect, index, func(e *netlink.AttributeEncoder) {
		e.Uint64(attrSize, uint64(r.Size))
		e.Uint64(attrBlockSize, uint64(r.BlockSize))
		e.Uint64(attrTimeout, 0)
		e.Uint64(attrDeadTimeout, uint64(dead/time.Second))
		e.Uint64(attrServerFlags, uint64(r.Flags))
		e.Uint64(attrClientFlags, destroyOnDisconnect)
		e.String(attrBackend, r.Backend)
		sockets(e, fd)
	}}
}

// reconnectMessage carries two descriptors: the new socket and, after it, the witness,
// which is no socket. The kernel looks at the second only after it has taken the first,
// and then fails with ENOTSOCK without undoing anything; when it has no use for the
// first it stops there and says that all is well.
//
// There is no size in it: a change of size freezes the queue, which waits for requests
// that only the reconnect can bring to an end. The request timeout is named only to
// reset what a resize has left, as it sets queue/io_timeout to 30 s.
func reconnectMessage(d Device, dead time.Duration, reset bool, fd, witness int) message {
	return message{cmdReconfigure, d.Index, func(e *netlink.AttributeEncoder) {
		if reset {
			e.Uint64(attrTimeout, 0)
		}
		e.Uint64(attrDeadTimeout, uint64(dead/time.Second))
		e.String(attrBackend, d.Backend)
		sockets(e, fd, witness)
	}}
}

func timeoutsMessage(d Device, request, dead time.Duration) message {
	return message{cmdReconfigure, d.Index, func(e *netlink.AttributeEncoder) {
		e.Uint64(attrTimeout, uint64(request/time.Second))
		e.Uint64(attrDeadTimeout, uint64(dead/time.Second))
		e.String(attrBackend, d.Backend)
	}}
}

func resizeMessage(d Device, size int64) message {
	return message{cmdReconfigure, d.Index, func(e *netlink.AttributeEncoder) {
		e.Uint64(attrSize, uint64(size))
		e.String(attrBackend, d.Backend)
	}}
}

func sockets(e *netlink.AttributeEncoder, fds ...int) {
	e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range fds {
			list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(sockFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

// exec sends a message on a connection of its own and returns the kernel's verdict,
// which wraps an Errno. It blocks for as long as the kernel does.
func (k *Kernel) exec(m message) error {
	msg, err := m.encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.name(), err)
	}
	c, err := k.cfg.dial()
	if err != nil {
		return fmt.Errorf("open generic netlink: %w", err)
	}
	defer c.Close()
	f, err := c.GetFamily(familyName)
	if err != nil {
		return k.noFamily(err)
	}
	if _, err := c.Execute(msg, f.ID, m.flags()); err != nil {
		return fmt.Errorf("%s of nbd%d: %w", m.name(), m.index, err)
	}
	return nil
}

// maxLost bounds the threads that may be lost in the kernel. One device that hangs in a
// call makes all calls of the host wait: the kernel handles generic netlink of families
// such as nbd one message at a time.
const maxLost = 8

// call is exec within bounds. The kernel runs a request in the thread that sends it, and
// may hold that thread for as long as a server does not answer; neither a signal nor a
// deadline reaches it. So a goroutine of its own does it and is left there if need be.
// after is called once in any case, when the kernel is done with what the message names;
// late tells that the caller had given up by then. The caller has its turn on the index.
func (k *Kernel) call(ctx context.Context, m message, after func(err error, late bool)) error {
	s, err := k.beginCall(m)
	if err != nil {
		after(err, false)
		return err
	}
	end := func(lost int) {
		k.mu.Lock()
		defer k.mu.Unlock()
		s.stuck = ""
		k.lost -= lost
	}
	done, err := k.bounded(ctx, k.cfg.CallTimeout, func() error { return k.exec(m) }, func(err error) {
		after(err, true)
		end(1)
	})
	if !done {
		return fmt.Errorf("%s of nbd%d: %w: %w", m.name(), m.index, ErrStuck, err)
	}
	end(0)
	after(err, false)
	return err
}

func (k *Kernel) beginCall(m message) (*slot, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.slots[m.index]
	if s.stuck != "" {
		return nil, fmt.Errorf("%s of nbd%d: %w: %s has not come back", m.name(), m.index, ErrStuck, s.stuck)
	}
	if k.lost >= maxLost {
		return nil, fmt.Errorf("%s of nbd%d: %w: %d calls have not come back", m.name(), m.index, ErrStuck, k.lost)
	}
	s.stuck = m.name()
	return s, nil
}

// bounded runs fn, which may block for ever, in a goroutine of its own. If it has not
// come back in time, done is false; late is called with its outcome when it does.
func (k *Kernel) bounded(ctx context.Context, bound time.Duration, fn func() error, late func(error)) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	outcome := make(chan error)
	gaveUp := make(chan struct{})
	k.work.Add(1) // the caller's own count keeps it above 0
	go func() {
		defer k.work.Done()
		err := fn()
		select {
		case outcome <- err:
		case <-gaveUp:
			late(err)
		}
	}()
	select {
	case err := <-outcome:
		return true, err
	case <-ctx.Done():
		k.mu.Lock()
		k.lost++
		k.mu.Unlock()
		close(gaveUp)
		return false, ctx.Err()
	}
}

// found is for a goroutine that came back late and has nothing to tell.
func (k *Kernel) found(error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lost--
}

// is tells whether the kernel's verdict is one of these errors.
func is(err error, errnos ...unix.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
