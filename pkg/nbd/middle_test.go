package nbd

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// middle passes bytes between clients and a server and keeps all it sees.
type middle struct {
	target Target

	mu  sync.Mutex
	all []byte
}

// newMiddle stands in front of a server. answer may look at what goes there and give an
// answer in its place.
func newMiddle(t *testing.T, to Target, answer func(toServer []byte) []byte) *middle {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{target: to}
	m.target.Address = l.Addr().String()
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(to.Network, to.Address)
			if err != nil {
				client.Close()
				return
			}
			wg.Go(func() { m.pass(client, server, nil) })
			wg.Go(func() { m.pass(server, client, answer) })
		}
	})
	return m
}

// pass copies what comes from a connection until either end is gone.
func (m *middle) pass(to, from net.Conn, answer func([]byte) []byte) {
	defer to.Close()
	defer from.Close()
	p := make([]byte, 64<<10)
	for {
		n, err := from.Read(p)
		m.mu.Lock()
		m.all = append(m.all, p[:n]...)
		m.mu.Unlock()
		if err != nil {
			return
		}
		out := to
		b := p[:n]
		if answer != nil {
			if own := answer(b); own != nil {
				out, b = from, own
			}
		}
		if _, err := out.Write(b); err != nil {
			return
		}
	}
}

func (m *middle) seen() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.all)
}
