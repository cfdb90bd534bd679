package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/store"
)

// maxSocketPath is the longest path of a unix socket, in bytes; see unix(7).
const maxSocketPath = 107

// bind listens on l. A unix socket that nobody listens on any more is replaced; one
// that is in use is ErrInUse.
func bind(l listen) (net.Listener, error) {
	if l.network == "unix" {
		return bindUnix(l.address)
	}
	ln, err := net.Listen("tcp", l.address)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %w: %w", l, err, store.ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return ln, nil
}

// bindUnix makes the socket beside its name and moves it there when its mode is
// right, so that nobody can connect before.
func bindUnix(path string) (net.Listener, error) {
	if err := vacant(path); err != nil {
		return nil, err
	}
	temp := filepath.Join(filepath.Dir(path), ".s"+rand.Text()[:8])
	if longest := max(len(path), len(temp)); longest > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path is too long by %d bytes; use a shorter data directory: %w", path, longest-maxSocketPath, store.ErrInvalid)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), ln.Close(), os.Remove(temp))
	}
	return &unixListener{UnixListener: ln, path: path}, nil
}

// vacant makes sure that nobody listens on path and that what is there, if anything,
// is a socket.
func vacant(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: %w", path, err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket %s: something else has this name: %w", path, store.ErrConflict)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("socket %s: another process listens on it: %w", path, store.ErrInUse), conn.Close())
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil // left behind by a process that is gone
	}
	return fmt.Errorf("socket %s: cannot tell whether it is in use: %w", path, err)
}

// unixListener removes its socket's file when it is closed.
type unixListener struct {
	*net.UnixListener
	path string
	once sync.Once
	err  error // of the one Close that did something
}

// Close implements net.Listener. Servers and the stop both close a listener: each
// returns when the file is gone, and it is removed only once.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		l.err = l.UnixListener.Close()
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.err = errors.Join(l.err, fmt.Errorf("socket %s: %w", l.path, err))
		}
	})
	return l.err
}

// Addr names the socket where clients find it.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }
