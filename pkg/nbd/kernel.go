package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How soon a TCP peer that died without a word is given up.
const (
	keepaliveIdle     = 5 * time.Second
	keepaliveInterval = 5 * time.Second
	keepaliveCount    = 3
	userTimeout       = 15 * time.Second
)

// KernelDial says to what DialKernel connects.
type KernelDial struct {
	// Target is the server; a host name is looked up anew. Its Export is not used.
	Target Target
	// Export is the name of the export. It may hold a secret and appears in no error.
	Export string
	// TLS, if set, is what TCP connections are secured with, whatever the target says,
	// in TLS 1.3. Without it, they are plain, and a target that asks for TLS is refused.
	// A unix socket is always plain: the kernel has TLS for TCP only.
	TLS *tls.Config
}

// DialKernel connects to an export and negotiates all that the kernel's NBD client
// leaves to user space. The file is the connected socket, in blocking mode, on which
// nothing beyond the handshake has been read: the first request may be sent. The
// caller owns it. With TLS, the kernel encrypts what is written to the socket and
// decrypts what is read, and the connection must be replaced in time, see KeyRecords.
//
// The context bounds all of it. A peer that dies without a word is noticed after
// about 15 s, in the handshake and afterwards. A refusal by the server is a *Refusal;
// ErrNoKernelTLS: this kernel cannot do it.
func DialKernel(ctx context.Context, d KernelDial) (*os.File, Negotiated, error) {
	f, n, err := d.dial(ctx)
	if err != nil {
		return nil, Negotiated{}, fmt.Errorf("connect to %s for the kernel: %w", d.Target.server(), err)
	}
	return f, n, nil
}

func (d KernelDial) dial(ctx context.Context) (*os.File, Negotiated, error) {
	secure, err := d.Target.secured(d.TLS)
	if err != nil {
		return nil, Negotiated{}, err
	}
	if secure && d.Target.Network == "unix" {
		return nil, Negotiated{}, errors.New("the kernel has no TLS for unix sockets; use nbd+unix, which is guarded by the mode of the socket")
	}
	nd := net.Dialer{KeepAlive: -1, Control: prepareSocket}
	nc, err := nd.DialContext(ctx, d.Target.Network, d.Target.Address)
	if err != nil {
		return nil, Negotiated{}, err
	}
	defer nc.Close() // the file is a duplicate
	raw := rawOf(nc)
	if raw == nil {
		return nil, Negotiated{}, fmt.Errorf("network %q is neither TCP nor unix", d.Target.Network)
	}
	g := newGreeter(nc, d.Export)
	err = within(ctx, nc, func() error {
		if err := g.greet(); err != nil {
			return err
		}
		if secure {
			if err := g.startTLS(); err != nil {
				return err
			}
			if g.nc, err = handToKernel(nc.(*net.TCPConn), d.TLS); err != nil {
				return err
			}
		}
		return g.choose(Wish{})
	})
	if err != nil {
		return nil, Negotiated{}, fmt.Errorf("negotiate: %w", err)
	}
	f, err := blockingFile(raw)
	if err != nil {
		return nil, Negotiated{}, err
	}
	return f, g.n, nil
}

// prepareSocket sets, before anything is sent, how long a TCP peer may be silent.
func prepareSocket(network, _ string, raw syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var err error
	set := func(fd uintptr, level, name, value int, what string) {
		if err == nil {
			if serr := unix.SetsockoptInt(int(fd), level, name, value); serr != nil {
				err = fmt.Errorf("set %s: %w", what, serr)
			}
		}
	}
	cerr := raw.Control(func(fd uintptr) {
		set(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE")
		set(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepaliveIdle/time.Second), "TCP_KEEPIDLE")
		set(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepaliveInterval/time.Second), "TCP_KEEPINTVL")
		set(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepaliveCount, "TCP_KEEPCNT")
		set(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond), "TCP_USER_TIMEOUT")
		set(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY")
	})
	return errors.Join(err, cerr)
}

// blockingFile duplicates a socket and puts it into blocking mode.
func blockingFile(raw syscall.RawConn) (*os.File, error) {
	dup := -1
	var err error
	cerr := raw.Control(func(fd uintptr) {
		if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(dup, false)
		}
	})
	if err = errors.Join(err, cerr); err != nil {
		if dup >= 0 {
			unix.Close(dup)
		}
		return nil, fmt.Errorf("take the socket: %w", err)
	}
	return os.NewFile(uintptr(dup), "nbd socket"), nil
}
