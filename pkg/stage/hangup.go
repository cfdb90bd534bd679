package stage

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hangups tells when the other side of a socket, which the kernel reads and writes, is
// gone. It holds a descriptor of each, and never touches the data.
type hangups struct {
	ep   int
	wake int // an eventfd that ends the waiting

	mu    sync.Mutex
	names map[int32]string // by descriptor
}

func newHangups() (*hangups, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	h := &hangups{ep: ep, wake: wake, names: make(map[int32]string)}
	if err := h.control(unix.EPOLL_CTL_ADD, wake, unix.EPOLLIN); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *hangups) control(op, fd int, events uint32) error {
	if err := unix.EpollCtl(h.ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil { // #nosec G115 -- an open descriptor
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// add begins to watch a socket, which stays the caller's. It is told of once.
func (h *hangups) add(sock *os.File, name string) error {
	fd := int(sock.Fd())
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLRDHUP|unix.EPOLLONESHOT); err != nil {
		return err
	}
	h.names[int32(fd)] = name // #nosec G115 -- an open descriptor; wait looks at names after the lock
	return nil
}

// remove ends the watching of a socket; to be called before it is closed.
func (h *hangups) remove(sock *os.File) {
	fd := int(sock.Fd())
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.names, int32(fd)) // #nosec G115 -- an open descriptor
	_ = h.control(unix.EPOLL_CTL_DEL, fd, 0)
}

// wait returns the names of sockets that have hung up. It returns none after stop.
func (h *hangups) wait() ([]string, error) {
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(h.ep, events[:], -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("watch sockets: %w", err)
		}
		var list []string
		h.mu.Lock()
		for _, e := range events[:n] {
			if int(e.Fd) == h.wake {
				h.mu.Unlock()
				return nil, nil
			}
			// A descriptor that was removed meanwhile may have another's number.
			if name, ok := h.names[e.Fd]; ok && e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				list = append(list, name)
			}
		}
		h.mu.Unlock()
		if len(list) > 0 {
			return list, nil
		}
	}
}

// stop ends wait for good.
func (h *hangups) stop() {
	_, _ = unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only if it was written already
}

func (h *hangups) close() {
	_ = unix.Close(h.wake)
	_ = unix.Close(h.ep)
}

// duplicate makes a second descriptor of a socket, to watch it by.
func duplicate(sock *os.File) (*os.File, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	fd := -1
	var failed error
	err = raw.Control(func(n uintptr) { fd, failed = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	return os.NewFile(uintptr(fd), sock.Name()), nil
}
