package storeapi

import (
	"net"
	"sync"
	"time"
)

// lingerTimeout bounds how long closing waits for the server to let go.
const lingerTimeout = 5 * time.Second

// lingering is a connection whose Close waits until the peer has closed its side. The
// NBD server does that once it has released the image; so whoever closed a device may
// remove, revert or publish the image at once.
type lingering struct {
	net.Conn
	once  sync.Once
	ended chan struct{} // the reader has seen the end
}

func linger(c net.Conn) *lingering {
	return &lingering{Conn: c, ended: make(chan struct{})}
}

// Read implements net.Conn. After an error nothing more is read.
func (l *lingering) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		l.once.Do(func() { close(l.ended) })
	}
	return n, err
}

// Close implements net.Conn.
func (l *lingering) Close() error {
	t := time.NewTimer(lingerTimeout)
	defer t.Stop()
	select {
	case <-l.ended:
	case <-t.C:
	}
	return l.Conn.Close()
}
