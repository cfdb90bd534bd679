package nbd

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Target says where an export is.
type Target struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is host:port or the path of a socket.
	Address string
	// Export is the export's name, which may be empty.
	Export string
	// TLS: the address asks for TLS.
	TLS bool
}

const defaultPort = "10809"

// ParseURI understands nbd://host[:port]/export and
// nbd+unix:///export?socket=/path, and with nbds for nbd the same with TLS. Names may
// be percent-encoded.
func ParseURI(uri string) (Target, error) {
	bad := func(why string) (Target, error) {
		return Target{}, fmt.Errorf("NBD address %q: %s", uri, why)
	}
	u, err := url.Parse(uri)
	if err != nil {
		return Target{}, fmt.Errorf("NBD address: %w", err)
	}
	t := Target{Export: strings.TrimPrefix(u.Path, "/"), TLS: strings.HasPrefix(u.Scheme, "nbds")}
	switch u.Scheme {
	case "nbd", "nbds":
		if u.Hostname() == "" {
			return bad("the host is missing")
		}
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		t.Network, t.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
	case "nbd+unix", "nbds+unix":
		if u.Host != "" {
			return bad("write " + u.Scheme + ":///name?socket=/path, with three slashes")
		}
		t.Network, t.Address = "unix", u.Query().Get("socket")
		if t.Address == "" {
			return bad("the parameter socket=/path is missing")
		}
	default:
		return bad("the scheme must be nbd, nbds, nbd+unix or nbds+unix")
	}
	return t, nil
}

// String is the URI of the target.
func (t Target) String() string {
	u := url.URL{Scheme: "nbd", Host: t.Address, Path: "/" + t.Export}
	if t.TLS {
		u.Scheme = "nbds"
	}
	if t.Network == "unix" {
		u.Scheme, u.Host = u.Scheme+"+unix", ""
		u.RawQuery = "socket=" + strings.ReplaceAll(url.QueryEscape(t.Address), "%2F", "/")
		return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery
	}
	return u.String()
}
