package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Files are the PEM files of a process. The zero value means no TLS.
type Files struct {
	// CA holds the certificates of the authorities that are believed.
	CA string
	// Cert holds the certificate of this process, then what leads to the authority.
	Cert string
	// Key holds its private key.
	Key string
}

// Set tells whether TLS is wanted.
func (f Files) Set() bool { return f != Files{} }

// Check reads all files and tells what is wrong with them: one is not named or not
// there (ErrMissing), not what it should be (ErrMalformed), or a certificate is not
// valid now (ErrExpired), or names no role (ErrRole). Without any file it is nil.
func (f Files) Check() error {
	if !f.Set() {
		return nil
	}
	for _, file := range []struct{ what, path string }{
		{"authority", f.CA}, {"certificate", f.Cert}, {"key", f.Key},
	} {
		if file.path == "" {
			return fmt.Errorf("TLS wants authority, certificate and key, and the %s is not named: %w", file.what, ErrMissing)
		}
	}
	m, err := f.load()
	if err != nil {
		return err
	}
	if _, err := roleOf(m.cert.Leaf); err != nil {
		return fmt.Errorf("%s: %w", f.Cert, err)
	}
	if err := validNow(m.cert.Leaf, time.Now()); err != nil {
		return fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	return nil
}

// Expires is when the certificate of this process ceases to be valid.
func (f Files) Expires() (time.Time, error) {
	m, err := f.load()
	if err != nil {
		return time.Time{}, err
	}
	return m.cert.Leaf.NotAfter, nil
}

// material is what the files hold at one instant.
type material struct {
	pool *x509.CertPool
	cert tls.Certificate
}

func (f Files) load() (material, error) {
	pool, err := f.loadPool()
	if err != nil {
		return material{}, err
	}
	cert, err := f.loadPair()
	if err != nil {
		return material{}, err
	}
	return material{pool, cert}, nil
}

func (f Files) loadPool() (*x509.CertPool, error) {
	b, err := read("authority", f.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("authority %s: %w: %w", f.CA, ErrMalformed, err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("authority %s: it holds no certificate in PEM: %w", f.CA, ErrMalformed)
	}
	return pool, nil
}

// loadPair reads certificate and key. Both may be replaced at any time, one after the
// other, so what does not fit is looked at again.
func (f Files) loadPair() (tls.Certificate, error) {
	const looks = 3
	var pairErr error
	for range looks {
		cert, err := read("certificate", f.Cert)
		if err != nil {
			return tls.Certificate{}, err
		}
		key, err := read("key", f.Key)
		if err != nil {
			return tls.Certificate{}, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err == nil {
			return pair, nil
		}
		pairErr = err
	}
	return tls.Certificate{}, fmt.Errorf("certificate %s with key %s: %w: %w", f.Cert, f.Key, ErrMalformed, pairErr)
}

func read(what, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s %s does not exist: %w", what, path, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}
