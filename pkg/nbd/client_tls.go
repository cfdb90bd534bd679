package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// errTLSWanted: an nbds address and no certificates.
var errTLSWanted = errors.New("the address asks for TLS, for which no certificates were given")

// secured tells whether a connection to the target must use TLS: where certificates
// are given, TCP is never plain, whatever the address says.
func (t Target) secured(cfg *tls.Config) (bool, error) {
	switch {
	case cfg == nil && t.TLS:
		return false, errTLSWanted
	case cfg == nil:
		return false, nil
	}
	return t.TLS || t.Network != "unix", nil
}

// server is the target without the export, whose name may hold a secret.
func (t Target) server() string {
	t.Export = ""
	return t.String()
}

// startTLS asks for TLS. A server that has none ends the attempt: nothing is said in
// the clear to one that should have it.
func (g *greeter) startTLS() error {
	ok, err := g.accepted(optStartTLS, nil, func(kind uint32, _ []byte) error {
		return fmt.Errorf("the server answered STARTTLS with the reply %#x", kind)
	})
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("the server offers no TLS, which this client requires")
	}
	return nil
}

// negotiateTLS is Negotiate over TLS. The connection to go on with is returned.
func negotiateTLS(ctx context.Context, nc net.Conn, export string, w Wish, cfg *tls.Config) (Negotiated, net.Conn, error) {
	g := newGreeter(nc, export)
	secure := tls.Client(nc, clientTLS(cfg))
	err := within(ctx, nc, func() error {
		if err := g.greet(); err != nil {
			return err
		}
		if err := g.startTLS(); err != nil {
			return err
		}
		if err := secure.Handshake(); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
		g.nc = secure
		return g.choose(w)
	})
	if err != nil {
		return Negotiated{}, nil, fmt.Errorf("negotiate: %w", err)
	}
	return g.n, secure, nil
}

// clientTLS is cfg as this package uses it: TLS 1.3 with records as long as can be.
func clientTLS(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	cfg.ClientSessionCache = nil
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}
