package nbd

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pki"
)

// wire is a client that sends and checks bytes.
type wire struct {
	t testing.TB
	net.Conn
	greeted bool
}

const testPatience = 20 * time.Second

// raw connects without a handshake.
func (r *rig) raw() *wire {
	r.t.Helper()
	nc, err := net.Dial("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(testPatience))
	r.t.Cleanup(func() { nc.Close() })
	w := &wire{t: r.t, Conn: nc}
	if r.pki != "" {
		w.secure(r.as(pki.RoleNode))
	}
	return w
}

// secure changes over to TLS, where there is no second greeting.
func (w *wire) secure(cfg *tls.Config) {
	w.t.Helper()
	w.greet()
	w.send(appendOption(nil, optStartTLS, nil))
	w.expect("0003e889045565a9 00000005 00000001 00000000")
	c := tls.Client(w.Conn, clientTLS(cfg))
	if err := c.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	w.Conn, w.greeted = c, true
}

// simple is a connection in the transmission phase with simple replies whose
// client did not learn the block size.
func (r *rig) simple() *wire {
	r.t.Helper()
	w := r.raw()
	w.greet()
	w.send(appendOption(nil, optExportName, []byte("disk")))
	w.skip(10)
	return w
}

// structured is a connection in the transmission phase with structured replies and
// the given contexts.
func (r *rig) structured(contexts ...string) *wire {
	r.t.Helper()
	w := r.raw()
	g := newGreeter(w.Conn, "disk")
	if !w.greeted {
		if err := g.greet(); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := g.choose(Wish{Structured: true, Contexts: contexts}); err != nil {
		r.t.Fatal(err)
	}
	return w
}

// greet takes the greeting and answers that trailing zeroes are not wanted.
func (w *wire) greet() {
	w.t.Helper()
	if w.greeted {
		return
	}
	w.expect("4e42444d41474943 49484156454f5054 0003")
	w.send([]byte{0, 0, 0, 3})
}

func (w *wire) send(b []byte) {
	w.t.Helper()
	if _, err := w.Write(b); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

func (w *wire) skip(n int) []byte {
	w.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(w, b); err != nil {
		w.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return b
}

// expect receives exactly the bytes written in hexadecimal.
func (w *wire) expect(hex string) {
	w.t.Helper()
	want := unhex(w.t, hex)
	if got := w.skip(len(want)); !slices.Equal(got, want) {
		w.t.Fatalf("received\n%x, want\n%x", got, want)
	}
}

// expectEnd waits until the server has closed the connection.
func (w *wire) expectEnd() {
	w.t.Helper()
	b, err := io.ReadAll(w)
	if isTimeout(err) || len(b) > 0 {
		w.t.Fatalf("the connection is open, received %x, %v", b, err)
	}
}
