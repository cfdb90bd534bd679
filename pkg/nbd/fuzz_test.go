package nbd

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// pipeListener serves one end of a pipe.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// feed sends bytes to a fresh server and takes whatever it answers. With proper the
// bytes end in a disconnect, which must be reached. The server must end within the
// patience and within its budget.
func feed(t *testing.T, sent []byte, proper bool) {
	b := &backend{disks: map[string]*disk{"": newDisk(1 << 20)}}
	srv := NewServer(b, Config{HandshakeTimeout: 5 * time.Second, StallTimeout: 5 * time.Second})
	l := &pipeListener{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		srv.Serve(context.Background(), l)
		close(ended)
	}()
	near, far := net.Pipe()
	l.conns <- far
	received := make(chan struct{})
	go func() {
		io.Copy(io.Discard, near)
		close(received)
	}()
	near.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := near.Write(sent); isTimeout(err) {
		t.Error("the server hangs")
	}
	if proper {
		<-received
		if _, err := near.Write([]byte{0}); isTimeout(err) {
			t.Error("the server does not disconnect")
		}
	}
	near.Close()
	<-received
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Close(ctx); err != nil {
		t.Error(err)
	}
	<-ended
	if st := srv.Stats(); st.Bytes != 0 || st.Peak > st.Limit {
		t.Errorf("%+v", st)
	}
}

// repair makes a valid sequence of messages of random bytes: magic numbers,
// commands that exist (and one that does not), payloads that are there.
func repair(b []byte) []byte {
	var out []byte
	for len(b) >= requestSize && len(out) < 1<<20 {
		r, _ := parseRequest(b)
		r.cmd %= 9
		if r.cmd == cmdDisc {
			r.cmd = cmdRead
		}
		if r.cookie%2 == 0 {
			r.offset %= 1<<20 + 1
			r.length %= 1<<18 + 1
		}
		b = b[requestSize:]
		n := 0
		if r.cmd == cmdWrite {
			r.length = min(r.length, inlineMax+10000)
			n = int(r.length)
		}
		at := len(out)
		out = append(out, make([]byte, requestSize+n)...)
		r.put(out[at:])
		b = b[copy(out[at+requestSize:], b):]
	}
	return append(out, header(0, cmdDisc, 0, 0, 0)...)
}

func FuzzHandshake(f *testing.F) {
	f.Add(unhexSeed("00000003"))
	f.Add(append(unhexSeed("00000003"), appendOption(nil, optGo, goData(""))...))
	f.Add(append(unhexSeed("00000001"), appendOption(nil, optSetMetaContext, metaData("", "base:allocation"))...))
	f.Add(append(unhexSeed("00000000"), appendOption(nil, optExportName, nil)...))
	f.Add(append(unhexSeed("00000003"), appendOption(nil, optList, nil)...))
	f.Fuzz(func(t *testing.T, b []byte) { feed(t, b, false) })
}

func FuzzTransmission(f *testing.F) {
	opening := append([]byte{0, 0, 0, 3}, appendOption(nil, optStructuredReply, nil)...)
	opening = append(opening, appendOption(nil, optSetMetaContext, metaData("", "base:allocation"))...)
	opening = append(opening, appendOption(nil, optGo, goData(""))...)
	for cmd := range uint16(9) {
		f.Add(append(header(0, cmd, 1, 0, 4096), make([]byte, 5000)...))
		f.Add(header(cmdFlagFUA, cmd, 1, 1<<63, 1<<31))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		feed(t, append(slices.Clone(opening), b...), false)
		feed(t, append(slices.Clone(opening), repair(b)...), true)
	})
}

func unhexSeed(s string) []byte { return unhex(&testing.T{}, s) }
