package nbd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// serverTLS is cfg as this package uses it: TLS 1.3 with records as long as can be and
// without tickets, since a client that hands the connection to its kernel cannot take
// a record that is no data.
func serverTLS(cfg *tls.Config) *tls.Config {
	fit := func(cfg *tls.Config) *tls.Config {
		cfg = cfg.Clone()
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
		cfg.SessionTicketsDisabled = true
		cfg.DynamicRecordSizingDisabled = true
		return cfg
	}
	cfg = fit(cfg)
	if ask := cfg.GetConfigForClient; ask != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := ask(hello)
			if own == nil || err != nil {
				return own, err
			}
			return fit(own), nil
		}
	}
	return cfg
}

// TLS tells what TLS has established about the peer; false on a connection without.
func (c *Conn) TLS() (tls.ConnectionState, bool) {
	secure := c.secure.Load()
	if secure == nil {
		return tls.ConnectionState{}, false
	}
	return secure.ConnectionState(), true
}

// clear tells whether an option comes in the clear where TLS must come first.
func (h *handshake) clear(opt uint32) bool {
	return h.c.listener.tls != nil && h.c.secure.Load() == nil && opt != optStartTLS && opt != optAbort
}

var errClear = errors.New("the client chose an export without TLS")

func (h *handshake) refuseClear(opt uint32) error {
	if opt == optExportName {
		return errClear // it knows no error
	}
	return h.refuse(opt, repErrTLSReqd, "this server requires TLS: send STARTTLS first")
}

// startTLS answers STARTTLS and does the handshake. Whatever was agreed before is
// forgotten: somebody else may have said it. Nothing was read beyond the option, so
// bytes that were slipped in behind it are taken for TLS, and fail.
func (h *handshake) startTLS(data []byte) error {
	switch {
	case len(data) > 0:
		return h.refuse(optStartTLS, repErrInvalid, "the option takes no data")
	case h.c.listener.tls == nil:
		return h.refuse(optStartTLS, repErrUnsup, "TLS is not available here")
	case h.c.secure.Load() != nil:
		return h.refuse(optStartTLS, repErrInvalid, "TLS is in use already")
	}
	if err := h.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	secure := tls.Server(&socket{Conn: h.c.nc}, h.c.listener.tls)
	if err := secure.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	h.c.secure.Store(secure)
	*h = handshake{c: h.c, nc: secure, due: h.due, noZeroes: h.noZeroes}
	return nil
}

// farewell answers the client's good-bye with that of TLS, if it can be told without
// waiting. Nobody else writes any more. Clients that are left by the server get none:
// they shall come back, and kernels cannot read it.
func (c *Conn) farewell() {
	secure := c.secure.Load()
	if secure == nil || c.isCut() || c.draining.Load() {
		return
	}
	if s, ok := secure.NetConn().(*socket); ok {
		s.parting = true
	}
	_ = secure.CloseWrite() // the connection is closed in any case
}

// socket is what TLS reads from and writes to. In the transmission phase it waits as
// inlet and outlet do, so that they know when the peer keeps them waiting.
type socket struct {
	net.Conn
	in      *inlet
	out     *outlet
	parting bool
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if s.in == nil {
		return s.Conn.Read(p)
	}
	return s.in.receive(p)
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	switch raw := rawOf(s.Conn); {
	case s.parting && raw != nil:
		return writeNow(raw, p)
	case s.out == nil:
		return s.Conn.Write(p)
	}
	if err := s.out.writeRaw(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeNow writes what the socket takes without waiting.
func writeNow(raw syscall.RawConn, p []byte) (int, error) {
	n := 0
	var err error
	cerr := raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return true
	})
	return max(n, 0), errors.Join(err, cerr)
}

// firstSize is how much is received before a connection takes a turn, in bytes.
const firstSize = 512

// secure makes the inlet receive through TLS.
func (in *inlet) secure(t *tls.Conn) {
	s, ok := t.NetConn().(*socket)
	if !ok || in.raw == nil {
		in.nc, in.raw = t, nil
		return
	}
	s.in, in.tls, in.first = in, t, make([]byte, firstSize)
}

// secure makes the outlet send through TLS.
func (o *outlet) secure(t *tls.Conn) {
	s, ok := t.NetConn().(*socket)
	if !ok || o.raw == nil {
		o.nc, o.raw = t, nil
		return
	}
	s.out, o.tls = o, t
}

// readSecure is receive through TLS. While there is nothing to do, idle takes p away,
// so what may have to be waited for goes elsewhere first.
func (in *inlet) readSecure(p []byte) (int, error) {
	if in.idle == nil {
		return in.tls.Read(p)
	}
	n, err := in.tls.Read(in.first)
	if n > 0 {
		err = nil // it comes again
	}
	if in.parked {
		in.spare = in.first[:n]
		return 0, err
	}
	return copy(p, in.first[:n]), err
}
