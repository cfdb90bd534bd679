package storeapi

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/store"
)

// SocketName is the file name of the API's unix socket in a data directory.
const SocketName = "api.sock"

// address is where a server listens: a unix socket's path or a host and port.
type address struct {
	network string // "unix" or "tcp"
	value   string
}

// parseAddress accepts "unix:PATH", a path (it has a '/' or names a directory or a
// socket), a data directory (its api.sock is meant), or host:port.
func parseAddress(s string) (address, error) {
	if s == "" {
		return address{}, fmt.Errorf("store address is empty: %w", store.ErrInvalid)
	}
	path, unix := strings.CutPrefix(s, "unix:")
	if !unix && !strings.Contains(s, "/") {
		if _, _, err := net.SplitHostPort(s); err == nil {
			return address{"tcp", s}, nil
		}
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, SocketName)
	} else if !unix && !strings.Contains(s, "/") && err != nil {
		return address{}, fmt.Errorf("store address %q is neither host:port nor the path of a socket or data directory: %w", s, store.ErrInvalid)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return address{}, fmt.Errorf("store address %q: %w", s, err)
	}
	return address{"unix", abs}, nil
}

// target is the address as gRPC names it.
func (a address) target() string {
	if a.network == "unix" {
		return (&url.URL{Scheme: "unix", Path: a.value}).String()
	}
	return "passthrough:///" + a.value
}

// DialOptions say how a client proves who it is.
type DialOptions struct {
	// TLS are the files of the client; TCP connections of the API and of NBD use them.
	// Unix sockets are guarded by their mode and use none.
	TLS pki.Files
	// Insecure allows TCP to other machines in the clear when TLS is not set.
	Insecure bool
}

// check refuses files that are of no use, and what would go over a network in the clear
// without being meant to.
func (o DialOptions) check(api address) error {
	switch {
	case api.network == "unix":
		return nil
	case o.TLS.Set():
		if err := o.TLS.Check(); err != nil {
			return fmt.Errorf("store at %s: %w", api.value, err)
		}
		return nil
	case o.Insecure || api.loopback():
		return nil
	}
	return fmt.Errorf("store at %s: it is on another machine, and neither certificates are given nor is it allowed to talk to it in the clear: %w", api.value, store.ErrInvalid)
}

// loopback tells whether the address leads to this machine.
func (a address) loopback() bool {
	host := a.host()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// grpcOptions: no proxy may stand between a tool and its store, and a store that
// restarts is found again within a second or two.
func (o DialOptions) grpcOptions(api address) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(clientCredentials(api, o.TLS)),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
}

// pickEndpoint chooses among the NBD endpoints of a server reached at api: over a
// unix socket the first one offered, over TCP the first TCP one. An endpoint that
// listens on every address of its host is reached at the API's host.
func pickEndpoint(api address, endpoints []string) (nbd.Target, error) {
	for _, s := range endpoints {
		t, err := nbd.ParseURI(s)
		if err != nil {
			return nbd.Target{}, fmt.Errorf("endpoint of the store at %s: %w", api.value, err)
		}
		if api.network == "unix" && t.Network == "unix" {
			return t, nil
		}
		if t.Network == "unix" {
			continue
		}
		host, port, err := net.SplitHostPort(t.Address)
		if err != nil {
			return nbd.Target{}, fmt.Errorf("endpoint %q of the store at %s: %w", s, api.value, err)
		}
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			t.Address = net.JoinHostPort(api.host(), port)
		}
		return t, nil
	}
	return nbd.Target{}, fmt.Errorf("the store at %s serves NBD on none of the networks that reach it: %w", api.value, store.ErrUnsupported)
}

// host is the machine that the store runs on.
func (a address) host() string {
	if a.network == "tcp" {
		if host, _, err := net.SplitHostPort(a.value); err == nil {
			return host
		}
	}
	return "localhost"
}
