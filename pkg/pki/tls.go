package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// Server is the configuration of a server that admits only clients which show a
// certificate of the authority with a role in it. protocols are those of ALPN, if any.
func (f Files) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m, err := f.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				NextProtos:             protocols,
				SessionTicketsDisabled: true,
				Certificates:           []tls.Certificate{m.cert},
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              m.pool,
				VerifyConnection: func(cs tls.ConnectionState) error {
					_, err := RoleOf(cs)
					return err
				},
			}, nil
		},
	}
}

// Client is the configuration of a client that talks to stores only, whatever address
// they were reached at: a server must show a certificate of the authority for
// store.strata.
func (f Files) Client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: RoleStore.Name(),
		// The authority is read at each handshake, which RootCAs cannot do. The whole
		// check is in verifyStore, which is called for every connection.
		InsecureSkipVerify: true,
		VerifyConnection:   f.verifyStore,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := f.loadPair()
			if err != nil {
				return nil, err
			}
			if err := validNow(cert.Leaf, time.Now()); err != nil {
				return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
			}
			return &cert, nil
		},
	}
}

// verifyStore checks what a server shows against the authority as it is now.
func (f Files) verifyStore(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("the server showed no certificate: %w", ErrMissing)
	}
	pool, err := f.loadPool()
	if err != nil {
		return err
	}
	leaf := cs.PeerCertificates[0]
	opts := x509.VerifyOptions{
		Roots:         pool,
		DNSName:       RoleStore.Name(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return f.explainVerify(leaf, err)
	}
	// It may have the name of a store beside that of another role, which comes first.
	if role, err := roleOf(leaf); err != nil || role != RoleStore {
		return fmt.Errorf("certificate of the peer, %s: its role is %q, not %q: %w", who(leaf), role, RoleStore, ErrRole)
	}
	return nil
}
