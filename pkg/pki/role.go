package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
)

// Role is what a process is to the others.
type Role string

const (
	// RoleStore serves a data directory.
	RoleStore Role = "store"
	// RoleController decides where volumes are and who may use them.
	RoleController Role = "controller"
	// RoleNode attaches volumes.
	RoleNode Role = "node"
	// RoleOperator is a human with the strata tool.
	RoleOperator Role = "operator"
)

// domain follows the role in a certificate's DNS name.
const domain = ".strata"

// Name is the DNS name that stands for the role in a certificate.
func (r Role) Name() string { return string(r) + domain }

// Roles are all of them.
func Roles() []Role { return []Role{RoleStore, RoleController, RoleNode, RoleOperator} }

// RoleOf is the role of the peer of an established connection: the first one that its
// certificate names. ErrMissing: it showed no certificate. ErrRole: that names no role.
func RoleOf(cs tls.ConnectionState) (Role, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", fmt.Errorf("the peer showed no certificate: %w", ErrMissing)
	}
	return roleOf(cs.PeerCertificates[0])
}

func roleOf(c *x509.Certificate) (Role, error) {
	for _, name := range c.DNSNames {
		for _, r := range Roles() {
			if strings.EqualFold(name, r.Name()) {
				return r, nil
			}
		}
	}
	return "", fmt.Errorf("the certificate of %s names none of the roles store.strata, controller.strata, node.strata and operator.strata: %w", who(c), ErrRole)
}

// who names the holder of a certificate.
func who(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return fmt.Sprintf("%q", c.Subject.CommonName)
	}
	if len(c.DNSNames) > 0 {
		return fmt.Sprintf("%q", c.DNSNames[0])
	}
	return "a holder without a name"
}
