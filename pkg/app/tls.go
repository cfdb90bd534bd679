package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
)

// certificates looks at the files for TLS, so that what is wrong with them fails the
// start. One that has expired does not: that would take the local clients down as well.
func (p *process) certificates() error {
	err := p.cfg.TLS.Check()
	if errors.Is(err, pki.ErrExpired) {
		p.log.Error(err, "Nobody can connect over TCP until the certificate is renewed")
		return nil
	}
	return err
}

// renewSoon is how long before its end a certificate is warned of.
const renewSoon = 30 * 24 * time.Hour

// certificateWarning says what is, or soon will be, wrong with the files as they are now;
// "" if nothing.
func certificateWarning(files pki.Files) string {
	if !files.Set() {
		return ""
	}
	if err := files.Check(); err != nil {
		return fmt.Sprintf("nobody can connect over TCP: %v", err)
	}
	if end, err := files.Expires(); err == nil && time.Until(end) < renewSoon {
		return fmt.Sprintf("certificate %s expires on %s; renew it", files.Cert, end.Format(time.DateOnly))
	}
	return ""
}

// secured tells whether TLS is asked for on a listener.
func (p *process) secured(ln net.Listener) bool {
	return p.cfg.TLS.Set() && ln.Addr().Network() != "unix"
}

func (p *process) serveNBD(ctx context.Context, ln net.Listener) error {
	if p.secured(ln) {
		return p.nbd.ServeTLS(ctx, ln, p.cfg.TLS.Server())
	}
	return p.nbd.Serve(ctx, ln)
}

// guard is the registry for clients whose role TLS has established. What others may
// do, the registry knows.
type guard struct {
	nbd.Backend
	open bool // plain names are for everybody
}

// Describe implements nbd.Backend.
func (g guard) Describe(ctx context.Context, name string, c *nbd.Conn) (nbd.ExportInfo, error) {
	if err := g.admit(c, name); err != nil {
		return nbd.ExportInfo{}, err
	}
	return g.Backend.Describe(ctx, name, c)
}

// Contexts implements nbd.Backend.
func (g guard) Contexts(ctx context.Context, name, query string, c *nbd.Conn) ([]string, error) {
	if err := g.admit(c, name); err != nil {
		return nil, err
	}
	return g.Backend.Contexts(ctx, name, query, c)
}

// Open implements nbd.Backend.
func (g guard) Open(ctx context.Context, name string, c *nbd.Conn) (nbd.Export, error) {
	if err := g.admit(c, name); err != nil {
		return nil, err
	}
	return g.Backend.Open(ctx, name, c)
}

// List implements nbd.Backend.
func (g guard) List(ctx context.Context, c *nbd.Conn) ([]nbd.ListEntry, error) {
	if err := g.admit(c, ""); err != nil {
		return nil, err
	}
	return g.Backend.List(ctx, c)
}

// admit tells whether the role of a peer lets it use an export name.
func (g guard) admit(c *nbd.Conn, name string) error {
	cs, ok := c.TLS()
	if !ok {
		return nil
	}
	role, err := pki.RoleOf(cs)
	switch {
	case err != nil:
		return nbd.Refuse(nbd.Policy, "the certificate names no role")
	case role == pki.RoleController || role == pki.RoleOperator:
		return nil
	case role == pki.RoleNode && (g.open || export.Published(name)):
		return nil
	case role == pki.RoleNode:
		return nbd.Refuse(nbd.Policy, "the role %q, which the certificate names, may attach publications only", role)
	}
	return nbd.Refuse(nbd.Policy, "the role %q, which the certificate names, may attach nothing", role)
}
