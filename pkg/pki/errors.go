package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

var (
	// ErrExpired: a certificate is not valid now.
	ErrExpired = errors.New("certificate not valid at this time")
	// ErrUnknownCA: a certificate is of another authority.
	ErrUnknownCA = errors.New("certificate of an unknown authority")
	// ErrMissing: a file or a certificate is not there.
	ErrMissing = errors.New("certificate missing")
	// ErrRole: a certificate is good, but for something else.
	ErrRole = errors.New("certificate of the wrong role")
	// ErrMalformed: a file is not what it should be.
	ErrMalformed = errors.New("certificate or key malformed")
	// ErrRefused: the peer did not accept our certificate.
	ErrRefused = errors.New("certificate refused by the peer")
)

// validNow tells whether a certificate can be used.
func validNow(c *x509.Certificate, now time.Time) error {
	const day = "2006-01-02 15:04 MST"
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("it expired on %s: %w", c.NotAfter.Format(day), ErrExpired)
	case now.Before(c.NotBefore):
		return fmt.Errorf("it is not valid before %s; is the clock right? %w", c.NotBefore.Format(day), ErrExpired)
	}
	return nil
}

// explainVerify says why the certificate of a peer was not accepted.
func (f Files) explainVerify(c *x509.Certificate, err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if terr := validNow(invalid.Cert, time.Now()); terr != nil {
			return fmt.Errorf("certificate of the peer, %s: %w", who(invalid.Cert), terr)
		}
		return fmt.Errorf("certificate of the peer, %s: %w", who(c), ErrExpired)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("certificate of the peer, %s: it is for the other side of a connection: %w", who(c), ErrRole)
	case errors.As(err, &unknown):
		return fmt.Errorf("certificate of the peer, %s: no authority in %s has issued it: %w", who(c), f.CA, ErrUnknownCA)
	case errors.As(err, &host):
		return fmt.Errorf("certificate of the peer, %s: it is not for %s: %w", who(c), host.Host, ErrRole)
	}
	return fmt.Errorf("certificate of the peer, %s: %w: %w", who(c), ErrMalformed, err)
}

// Explain says in plain words why a TLS connection failed, whichever side found out.
// An error that is not about certificates is returned as it is.
func (f Files) Explain(err error) error {
	var verify *tls.CertificateVerificationError
	var remote *net.OpError
	switch {
	case err == nil, isOurs(err):
		return err
	case errors.As(err, &verify):
		var c *x509.Certificate
		if len(verify.UnverifiedCertificates) > 0 {
			c = verify.UnverifiedCertificates[0]
		}
		return f.explainVerify(c, verify.Err)
	case errors.As(err, &remote) && remote.Op == "remote error":
		return f.explainAlert(err, remote.Err.Error())
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		return fmt.Errorf("the peer showed no certificate: %w", ErrMissing)
	}
	return err
}

// explainAlert says what the peer has against our certificate.
func (f Files) explainAlert(err error, alert string) error {
	why := ""
	switch alert {
	case "tls: expired certificate":
		why = "it has expired"
	case "tls: unknown certificate authority":
		why = "the peer does not know the authority that issued it"
	case "tls: certificate required":
		why = "none was shown"
	case "tls: bad certificate", "tls: unsupported certificate", "tls: unknown certificate", "tls: access denied":
		why = "it is not what the peer wants; see the peer's log"
	default:
		return err
	}
	return fmt.Errorf("our certificate %s: %s: %w: %w", f.Cert, why, ErrRefused, err)
}

func isOurs(err error) bool {
	for _, is := range []error{ErrExpired, ErrUnknownCA, ErrMissing, ErrRole, ErrMalformed, ErrRefused} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
