package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of one cluster.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// lifetime of every certificate: no run comes near it.
const lifetime = 48 * time.Hour

// newAuthority makes a certificate authority whose files are in dir: ca.crt, and
// NAME.crt with NAME.key of all that it signs.
func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	t := template(pkix.Name{CommonName: "e2e"})
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	a := &authority{dir: dir, cert: cert, key: key}
	return a, a.write("ca.crt", "CERTIFICATE", der)
}

func template(subject pkix.Name) *x509.Certificate {
	now := time.Now()
	serial := new(big.Int).SetInt64(now.UnixNano())
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// sign makes name.crt and name.key for a subject and, for servers, their addresses.
func (a *authority) sign(name string, subject pkix.Name, hosts ...string) error {
	key, err := a.newKey(name)
	if err != nil {
		return err
	}
	t := template(subject)
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("sign %s: %w", name, err)
	}
	return a.write(name+".crt", "CERTIFICATE", der)
}

// newKey makes name.key and, for tokens, name.pub.
func (a *authority) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	if err := a.write(name+".key", "PRIVATE KEY", der); err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", name, err)
	}
	return key, a.write(name+".pub", "PUBLIC KEY", public)
}

func (a *authority) write(name, kind string, der []byte) error {
	block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(a.file(name), block, 0o600); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// kubeconfig writes a client's configuration to file, with its keys inside so that it
// can be carried to a node.
func (a *authority) kubeconfig(file, name, server string) error {
	var encoded [3]string
	for i, f := range []string{"ca.crt", name + ".crt", name + ".key"} {
		content, err := os.ReadFile(a.file(f))
		if err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
		encoded[i] = base64.StdEncoding.EncodeToString(content)
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %q, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: e2e, context: {cluster: e2e, user: %[3]q}}]
current-context: e2e
`, server, encoded[0], name, encoded[1], encoded[2])
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
