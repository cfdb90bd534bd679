package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/pki"
)

// tlsRig serves on TCP with TLS, and tells how connections end.
func tlsRig(t *testing.T, cfg Config) (r *rig, target Target, ends chan error) {
	t.Helper()
	ends = make(chan error, 100)
	cfg.Closed = func(_ *Conn, err error) { ends <- err }
	r = newRig(t, testSize, cfg)
	r.pki = certificates(t)
	target = r.tcp()
	target.Export = "disk"
	return r, target, ends
}

// clearly connects to the target without TLS.
func clearly(t *testing.T, target Target) *wire {
	t.Helper()
	nc, err := net.Dial(target.Network, target.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(testPatience))
	w := &wire{t: t, Conn: nc}
	w.greet()
	return w
}

// Before TLS, nothing is told and the backend is not asked.
func TestNothingBeforeTLS(t *testing.T) {
	r, target, ends := tlsRig(t, Config{})
	r.b.onOpen = func(context.Context, string, *Conn) error {
		t.Error("an export was opened")
		return nil
	}
	w := clearly(t, target)
	for _, c := range []struct {
		opt  uint32
		data []byte
	}{
		{optList, nil},
		{optInfo, goData("disk")},
		{optGo, goData("disk")},
		{optGo, goData("no such export")},
		{optGo, []byte("malformed")},
		{optStructuredReply, nil},
		{optSetMetaContext, metaData("disk")},
		{optListMetaContext, metaData("disk")},
		{99, nil},
		{optGo, make([]byte, maxOptionData+1)},
	} {
		kinds, why := w.option(c.opt, c.data)
		if len(kinds) != 1 || kinds[0] != repErrTLSReqd || !strings.Contains(string(why), "STARTTLS") {
			t.Errorf("option %d is answered with %#x, %q", c.opt, kinds, why)
		}
	}
	if kinds, _ := w.option(optStartTLS, []byte{1}); kinds[0] != repErrInvalid {
		t.Errorf("STARTTLS with data is answered with %#x", kinds)
	}
	if kinds, _ := w.option(optAbort, nil); kinds[0] != repAck {
		t.Errorf("ABORT is answered with %#x", kinds)
	}
	w.expectEnd()
	if err := <-ends; err != nil {
		t.Error(err)
	}
	w = clearly(t, target)
	w.send(appendOption(nil, optExportName, []byte("disk")))
	w.expectEnd()
	if err := <-ends; !errors.Is(err, errClear) {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), target.String()); err == nil || !strings.Contains(err.Error(), "requires TLS") {
		t.Errorf("a client without TLS: %v", err)
	}
}

// What somebody in between slips in behind STARTTLS is never taken for the client's.
func TestInjectionBeforeTLS(t *testing.T) {
	r, target, ends := tlsRig(t, Config{})
	r.b.onOpen = func(context.Context, string, *Conn) error {
		t.Error("an export was opened")
		return nil
	}
	w := clearly(t, target)
	w.send(appendOption(appendOption(nil, optStartTLS, nil), optGo, goData("disk")))
	w.expect("0003e889045565a9 00000005 00000001 00000000")
	io.Copy(io.Discard, w) // an alert
	if err := <-ends; err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("the connection ended with %v", err)
	}
}

func TestStartTLSTwice(t *testing.T) {
	r, target, ends := tlsRig(t, Config{})
	w := clearly(t, target)
	w.greeted = true
	w.secure(r.as(pki.RoleNode))
	if kinds, _ := w.option(optStartTLS, nil); kinds[0] != repErrInvalid {
		t.Errorf("a second STARTTLS is answered with %#x", kinds)
	}
	if kinds, _ := w.option(optList, nil); kinds[0] != repServer {
		t.Errorf("LIST over TLS is answered with %#x", kinds)
	}
	if kinds, _ := w.option(optAbort, nil); kinds[0] != repAck {
		t.Errorf("ABORT is answered with %#x", kinds)
	}
	if _, err := w.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server's good-bye: %v", err)
	}
	if err := <-ends; err != nil {
		t.Error(err)
	}
}

// tickets counts those that a server sends.
type tickets struct{ n atomic.Int64 }

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *tickets) Put(string, *tls.ClientSessionState)      { c.n.Add(1) }

// No record but data may follow the handshake: a kernel that has taken over could not
// read it. Whoever configures the server need not know.
func TestNoTickets(t *testing.T) {
	r, _, _ := tlsRig(t, Config{})
	forgetful := pki.RoleFiles(r.pki, pki.RoleStore).Server()
	ask := forgetful.GetConfigForClient
	forgetful.SessionTicketsDisabled = false
	forgetful.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		cfg, err := ask(h)
		if cfg != nil {
			cfg.SessionTicketsDisabled = false
		}
		return cfg, err
	}
	for name, cfg := range map[string]*tls.Config{"asked": serverTLS(forgetful), "as it is": forgetful} {
		near, far := net.Pipe()
		server := make(chan error, 1)
		go func() {
			c := tls.Server(far, cfg)
			_, err := c.Write([]byte{1})
			server <- err
		}()
		var seen tickets
		own := r.as(pki.RoleNode)
		own.ClientSessionCache = &seen
		c := tls.Client(near, own)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		if err := <-server; err != nil {
			t.Error(err)
		}
		if sent := seen.n.Load() > 0; sent != (name == "as it is") {
			t.Errorf("%s: tickets were sent: %v", name, sent)
		}
		near.Close()
		far.Close()
	}
}

// A backend learns who is at the other end.
func TestRoleIsKnown(t *testing.T) {
	r, target, _ := tlsRig(t, Config{})
	roles := make(chan pki.Role, 1)
	r.b.onOpen = func(_ context.Context, _ string, c *Conn) error {
		cs, ok := c.TLS()
		if !ok {
			return errors.New("no TLS")
		}
		role, err := pki.RoleOf(cs)
		roles <- role
		return err
	}
	for _, want := range pki.Roles() {
		c, err := (&Dialer{TLS: r.as(want)}).Dial(t.Context(), target.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := <-roles; got != want {
			t.Errorf("a client of role %q is %q to the backend", want, got)
		}
		c.Close()
	}
	plain := newRig(t, testSize, Config{})
	plain.b.onOpen = func(_ context.Context, _ string, c *Conn) error {
		if _, ok := c.TLS(); ok {
			t.Error("a plain connection is said to have TLS")
		}
		return nil
	}
	plain.dial()
}

// Who has no good certificate is told so, opens nothing, and leaves nothing behind in
// the server: the rig checks memory and connections at the end.
func TestBadCertificates(t *testing.T) {
	r, target, ends := tlsRig(t, Config{})
	r.b.onOpen = func(context.Context, string, *Conn) error {
		t.Error("an export was opened")
		return nil
	}
	other := certificates(t)
	stranger := pki.RoleFiles(other, pki.RoleNode).Client()
	stranger.VerifyConnection = nil // it believes anybody
	none := r.as(pki.RoleNode)
	none.GetClientCertificate = nil
	before := runtime.NumGoroutine()
	for name, c := range map[string]struct {
		cfg            *tls.Config
		client, server string
	}{
		"another authority":            {stranger, "unknown certificate authority", "unknown authority"},
		"no certificate":               {none, "certificate required", "didn't provide a certificate"},
		"a server it does not believe": {pki.RoleFiles(other, pki.RoleNode).Client(), other, "bad certificate"},
	} {
		_, err := (&Dialer{TLS: c.cfg, Label: "the store"}).Dial(t.Context(), target.String())
		if err == nil || !strings.Contains(err.Error(), c.client) {
			t.Errorf("%s: the client says %v", name, err)
		}
		if err := <-ends; err == nil || !strings.Contains(err.Error(), c.server) {
			t.Errorf("%s: the server says %v", name, err)
		}
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// A client that dawdles in the TLS handshake is as bounded as one in the NBD handshake.
func TestTLSHandshakeTimesOut(t *testing.T) {
	_, target, ends := tlsRig(t, Config{HandshakeTimeout: 50 * time.Millisecond})
	w := clearly(t, target)
	w.send(appendOption(nil, optStartTLS, nil))
	w.expect("0003e889045565a9 00000005 00000001 00000000")
	w.send([]byte{22, 3, 1})
	w.expectEnd()
	if err := <-ends; !isTimeout(err) {
		t.Errorf("the connection ended with %v", err)
	}
}

// A client that wants TLS says nothing to a server without, be it the server itself or
// somebody in between who would rather have it so.
func TestDowngrade(t *testing.T) {
	r, target, _ := tlsRig(t, Config{})
	const secret = "pub/a-token-that-is-secret"
	target.Export = secret
	for name, answer := range map[string][]byte{
		"unsupported":       appendReply(nil, optStartTLS, repErrUnsup, nil),
		"policy":            appendReply(nil, optStartTLS, repErrPolicy, nil),
		"accepted, no TLS":  append(appendReply(nil, optStartTLS, repAck, nil), appendReply(nil, optGo, repAck, nil)...),
		"an answer too few": appendReply(nil, optStartTLS, repInfo, []byte{0, 3}),
	} {
		m := newMiddle(t, target, func(toServer []byte) []byte {
			if bytes.Contains(toServer, appendOption(nil, optStartTLS, nil)) {
				return answer
			}
			return nil
		})
		for kind, dial := range map[string]func() error{
			"client": func() error {
				_, err := (&Dialer{TLS: r.as(pki.RoleNode), Label: "the store"}).Dial(t.Context(), m.target.String())
				return err
			},
			"kernel": func() error {
				_, _, err := DialKernel(t.Context(), KernelDial{Target: m.target, Export: secret, TLS: r.as(pki.RoleNode)})
				return err
			},
		} {
			err := dial()
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
		if bytes.Contains(m.seen(), []byte(secret)) {
			t.Errorf("%s: the export's name was sent in the clear", name)
		}
	}
	plain := newRig(t, testSize, Config{})
	at := plain.tcp()
	if _, err := (&Dialer{TLS: r.as(pki.RoleNode)}).Dial(t.Context(), at.String()); err == nil || !strings.Contains(err.Error(), "offers no TLS") {
		t.Errorf("a server without TLS: %v", err)
	}
}

// What is on the wire shows neither names nor data.
func TestNothingLegibleOnTheWire(t *testing.T) {
	const secret = "a-name-with-a-token"
	pattern := []byte("what is stored is nobody's business")
	for _, secure := range []bool{true, false} {
		r := newRig(t, testSize, Config{})
		if secure {
			r.pki = certificates(t)
		}
		r.b.add(secret, r.d)
		m := newMiddle(t, r.tcp(), nil)
		m.target.Export = secret
		c, err := r.dialer().Dial(t.Context(), m.target.String())
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat(pattern, 10000)
		if _, err := c.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("what is read is not what was written: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, p := range [][]byte{pattern, []byte(secret)} {
			if legible := bytes.Contains(m.seen(), p); legible == secure {
				t.Errorf("with TLS %v, %q on the wire: %v", secure, p, legible)
			}
		}
	}
}
