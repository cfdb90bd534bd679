package attach

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// handle is this process' own descriptor of a socket that the kernel uses, to cut the
// connection with. A nil handle is one that is not known.
type handle struct {
	fd      int
	backend string
}

// takeSocket makes a handle of f and closes f.
func takeSocket(f *os.File, backend string) (*handle, error) {
	if f == nil {
		return nil, errors.New("no socket was given")
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(n uintptr) { fd, dupErr = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate socket: %w", dupErr)
	}
	h := &handle{fd: fd, backend: backend}
	if err := h.check(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// check says in words what the kernel would answer with a mere EINVAL.
func (h *handle) check() error {
	domain, err := unix.GetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("not a socket: %w", err)
	}
	kind, err := unix.GetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("not a socket: %w", err)
	}
	known := domain == unix.AF_INET || domain == unix.AF_INET6 || domain == unix.AF_UNIX
	if !known || kind != unix.SOCK_STREAM {
		return fmt.Errorf("socket of domain %d and type %d: kernel NBD takes TCP and unix stream sockets only", domain, kind)
	}
	return nil
}

// dup makes a second descriptor, which the goroutine that calls the kernel owns.
func (h *handle) dup() (int, error) {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fmt.Errorf("duplicate socket: %w", err)
	}
	return fd, nil
}

// cut ends the connection in both directions. The kernel's reader wakes up, finds the
// end of the stream and marks the socket dead; a sender that is blocked fails. An
// error says that it is not connected any more.
func (h *handle) cut() {
	if h != nil {
		_ = unix.Shutdown(h.fd, unix.SHUT_RDWR)
	}
}

// hungUp tells whether the other side has ended the connection, or this side has.
func (h *handle) hungUp() bool {
	p := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

func (h *handle) close() {
	if h != nil {
		_ = unix.Close(h.fd)
	}
}
