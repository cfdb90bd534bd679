package nbd

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counted counts the writes of the server.
type counted struct {
	net.Conn
	writes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// Requests that arrive together are answered together.
func TestRepliesAreBatched(t *testing.T) {
	r := newRig(t, testSize, Config{})
	l := &pipeListener{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	r.serve(l)
	near, far := net.Pipe()
	server := &counted{Conn: far}
	l.conns <- server
	near.SetDeadline(time.Now().Add(testPatience))
	w := &wire{t: t, Conn: near}
	w.greet()
	w.send(appendOption(nil, optExportName, []byte("disk")))
	w.skip(10)
	var batch []byte
	for i := range uint64(8) {
		batch = append(batch, header(0, cmdRead, i, 4096*i, 4096)...)
	}
	before := server.writes.Load()
	w.send(batch)
	w.skip(8 * (simpleSize + 4096))
	if n := server.writes.Load() - before; n != 1 {
		t.Errorf("8 requests were answered in %d pieces", n)
	}
	near.Close()
}

// socketPair is two connected unix sockets.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// silent is an export that does nothing and allocates nothing.
type silent struct{ *disk }

func (silent) Read([]byte, int64) error        { return nil }
func (silent) Write([]byte, int64, bool) error { return nil }

// Small requests leave no garbage.
func TestNoGarbage(t *testing.T) {
	const depth = 32
	near, far := socketPair(t)
	srv := NewServer(nil, Config{})
	c := newConn(srv, far, nil)
	c.peer = srv.join("test")
	s := newSession(c, silent{newDisk(testSize)}, &handshake{})
	ended := make(chan error, 1)
	go func() { ended <- s.run() }()
	var batch []byte
	for i := range uint64(depth) {
		if i%2 == 0 {
			batch = append(batch, header(0, cmdRead, i, 0, 512)...)
		} else {
			batch = append(append(batch, header(0, cmdWrite, i, 0, 512)...), make([]byte, 512)...)
		}
	}
	replies := make([]byte, depth*simpleSize+depth/2*512)
	perBatch := testing.AllocsPerRun(200, func() {
		if _, err := near.Write(batch); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, replies); err != nil {
			t.Fatal(err)
		}
	})
	if perBatch > 4 { // the watch may start once or twice
		t.Errorf("%.1f allocations for %d requests", perBatch, depth)
	}
	near.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
