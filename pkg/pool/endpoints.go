package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// note reads a note; "" if there is none.
func note(ctx context.Context, m Member, key string) (string, error) {
	value, err := m.Remote.Note(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return value, err
}

// Endpoints are the NBD URIs at which this host reaches a member of the pool, without
// an export's name, the best first: unix sockets if the store is on this host, then
// TCP. A socket that the store names is looked for in the pool's local data directory
// first, because the store may see that directory under another path; an address that
// stands for all of a host becomes the one at which the API answered.
// ErrUnavailable if the member cannot be asked, ErrUnsupported if none is in reach.
func (s *Set) Endpoints(ctx context.Context, pool string, m Member) ([]string, error) {
	p, err := s.find(pool)
	if err != nil {
		return nil, err
	}
	offered, err := m.Remote.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("endpoints of %s: %w", m, err)
	}
	var near, far []string
	for _, o := range offered {
		u, err := url.Parse(o)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q of %s: %w: %w", o, m, err, store.ErrInvalid)
		}
		if strings.HasSuffix(u.Scheme, "+unix") {
			if m.Local {
				near = append(near, p.nearby(u))
			}
			continue
		}
		far = append(far, reachable(u, m.Addr))
	}
	if all := append(near, far...); len(all) > 0 {
		return all, nil
	}
	return nil, fmt.Errorf("%s serves NBD on no network that reaches it (it offers %q): %w", m, offered, store.ErrUnsupported)
}

// nearby is the URI of a unix socket as this process sees it.
func (p *members) nearby(u *url.URL) string {
	path := u.Query().Get("socket")
	if p.Local == "" {
		return u.String()
	}
	here := filepath.Join(p.Local, filepath.Base(path))
	if _, err := os.Stat(here); err == nil && here != path {
		q := u.Query()
		q.Set("socket", here)
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// reachable replaces an unspecified host by that of the API.
func reachable(u *url.URL, api string) string {
	ip := net.ParseIP(u.Hostname())
	if ip == nil || !ip.IsUnspecified() {
		return u.String()
	}
	host := "localhost"
	if h, _, err := net.SplitHostPort(api); err == nil && !strings.HasPrefix(api, "unix:") {
		host = h
	}
	u.Host = net.JoinHostPort(host, u.Port())
	return u.String()
}
