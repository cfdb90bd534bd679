package app

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/pki"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// reach is how a process comes to the stores of its pools.
type reach struct {
	files    pki.Files
	insecure bool
	pools    *pool.Set
}

// newReach prepares the pools. With observe, nothing is written to the stores' books.
func newReach(cfg pool.Config, observe bool) (*reach, error) {
	r := &reach{insecure: cfg.Insecure}
	if cfg.TLS != nil {
		r.files = pki.Files{CA: cfg.TLS.CA, Cert: cfg.TLS.Cert, Key: cfg.TLS.Key}
		if err := r.files.Check(); err != nil {
			return nil, fmt.Errorf("pools file: %w", err)
		}
	}
	set, err := pool.Open(cfg, pool.Options{Dial: r.store, Observe: observe})
	if err != nil {
		return nil, err
	}
	r.pools = set
	return r, nil
}

// store prepares a connection to the API of a store.
func (r *reach) store(addr string) (pool.Remote, error) {
	return storeapi.Dial(addr, storeapi.DialOptions{TLS: r.files, Insecure: r.insecure})
}

// device connects to an export on behalf of the kernel.
func (r *reach) device(ctx context.Context, t nbd.Target, export string) (*os.File, nbd.Negotiated, error) {
	d := nbd.KernelDial{Target: t, Export: export}
	switch {
	case t.Network == "unix":
	case r.files.Set():
		d.TLS = r.files.Client()
	case !r.insecure && !loopback(t.Address):
		return nil, nbd.Negotiated{}, fmt.Errorf("the store serves at %s, on another host, and the pools file gives no certificates (tls) and does not say insecure: true: %w", t.Address, store.ErrUnsupported)
	}
	return nbd.DialKernel(ctx, d)
}

// loopback tells whether a host and port can be reached from this host only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
