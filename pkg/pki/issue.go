package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Names of the files that Init makes: those of the authority in the directory itself,
// those of a role in a directory of its name.
const (
	CAFile   = "ca.crt"
	CAKey    = "ca.key"
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// RoleFiles are the files of a role in a directory made by Init.
func RoleFiles(dir string, r Role) Files {
	at := func(name string) string { return filepath.Join(dir, string(r), name) }
	return Files{CA: at(CAFile), Cert: at(CertFile), Key: at(KeyFile)}
}

// Terms say how long certificates are valid.
type Terms struct {
	// Years of the certificates of the roles, CAYears of the authority; at least 1.
	Years, CAYears int
	// Hosts are further DNS names and IP addresses for the certificate of the store,
	// for clients other than ours. Ours want store.strata alone.
	Hosts []string
	// Now is the present; the zero value means the clock's.
	Now time.Time
}

// skew is how far the clocks of machines may be apart.
const skew = time.Hour

// Init makes an authority in dir, which may exist, and a certificate for each role in a
// directory of its own beside a copy of the authority's certificate. Keys can be read by
// their owner only. Nothing that exists is touched: fs.ErrExist.
func Init(dir string, t Terms) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	for _, name := range append([]string{CAFile, CAKey}, roleDirs()...) {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("make certificates: %s: %w", path, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make certificates: %w", err)
		}
	}
	a, err := newAuthority(t)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	// The key comes first: an authority whose key was lost is of no use.
	if err := a.keep(dir); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	for _, r := range Roles() {
		hosts := t.Hosts
		if r != RoleStore {
			hosts = nil
		}
		if err := a.issueTo(dir, r, hosts, t); err != nil {
			return fmt.Errorf("make certificates: %w", err)
		}
	}
	return nil
}

// Renew replaces certificate and key of the given roles, or of all if none is given, in
// a directory made by Init. The names in them stay, and t.Hosts are added. Who uses the files in place has the
// new ones from the next connection on.
func Renew(dir string, t Terms, roles ...Role) error {
	a, err := loadAuthority(dir)
	if err != nil {
		return fmt.Errorf("renew certificates: %w", err)
	}
	if err := validNow(a.cert, t.now()); err != nil {
		return fmt.Errorf("renew certificates: authority %s: %w", filepath.Join(dir, CAFile), err)
	}
	if len(roles) == 0 {
		roles = Roles()
	}
	for _, r := range roles {
		hosts, err := hostsOf(RoleFiles(dir, r).Cert, r)
		if err != nil {
			return fmt.Errorf("renew certificates: %w", err)
		}
		for _, h := range t.Hosts {
			if r == RoleStore && !slices.Contains(hosts, h) {
				hosts = append(hosts, h)
			}
		}
		if err := a.issueTo(dir, r, hosts, t); err != nil {
			return fmt.Errorf("renew certificates: %w", err)
		}
	}
	return nil
}

func roleDirs() []string {
	var names []string
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return names
}

func (t Terms) now() time.Time {
	if t.Now.IsZero() {
		return time.Now()
	}
	return t.Now
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t Terms) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := t.now()
	form := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "strata authority"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(t.CAYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func (a *authority) keep(dir string) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, CAKey), key, 0o600); err != nil {
		return err
	}
	return replace(filepath.Join(dir, CAFile), certPEM(a.cert.Raw), 0o644)
}

// issueTo writes the files of a role.
func (a *authority) issueTo(dir string, r Role, hosts []string, t Terms) error {
	cert, key, err := a.issue(r, hosts, t)
	if err != nil {
		return fmt.Errorf("role %s: %w", r, err)
	}
	f := RoleFiles(dir, r)
	if err := os.MkdirAll(filepath.Dir(f.Cert), 0o700); err != nil {
		return err
	}
	if err := replace(f.CA, certPEM(a.cert.Raw), 0o644); err != nil {
		return err
	}
	if err := replace(f.Key, key, 0o600); err != nil {
		return err
	}
	return replace(f.Cert, cert, 0o644)
}

// issue makes a certificate, valid no longer than the authority's own, and its key.
func (a *authority) issue(r Role, hosts []string, t Terms) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := t.now()
	form := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "strata " + string(r)},
		DNSNames:              []string{r.Name()},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(t.Years, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if form.NotAfter.After(a.cert.NotAfter) {
		form.NotAfter = a.cert.NotAfter
	}
	if r == RoleStore {
		form.ExtKeyUsage = append(form.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(private)
	return certPEM(der), key, err
}

// hostsOf are the names in a certificate beside that of its role.
func hostsOf(path string, r Role) ([]string, error) {
	b, err := read("certificate", path)
	if err != nil {
		return nil, err
	}
	c, err := parseCert(path, b)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, name := range c.DNSNames {
		if name != r.Name() {
			hosts = append(hosts, name)
		}
	}
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts, nil
}

func loadAuthority(dir string) (*authority, error) {
	path := filepath.Join(dir, CAFile)
	b, err := read("authority", path)
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(path, b)
	if err != nil {
		return nil, err
	}
	path = filepath.Join(dir, CAKey)
	if b, err = read("key of the authority", path); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("key of the authority %s: it is not PEM: %w", path, ErrMalformed)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key of the authority %s: %w: %w", path, ErrMalformed, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("key of the authority %s: it is not that of %s: %w", path, CAFile, ErrMalformed)
	}
	return &authority{cert, key}, nil
}

func parseCert(path string, b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("certificate %s: it is not PEM: %w", path, ErrMalformed)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w: %w", path, ErrMalformed, err)
	}
	return c, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// replace writes a file beside its name and moves it there, so that no reader sees a
// part of it, and a crash leaves the old or the new one.
func replace(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
