package app

import (
	"context"
	"errors"
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
		// An expired certificate is told at each connection, and may be renewed while the
		// process runs; stores on this host are reached without it.
		if err := r.files.Check(); err != nil && !errors.Is(err, pki.ErrExpired) {
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

// loadReach is newReach with the content of a pools file.
func loadReach(path string, observe bool) (*reach, error) {
	cfg, err := pool.Load(path)
	if err != nil {
		return nil, err
	}
	return newReach(cfg, observe)
}

// ForgetStore gives up a store of a pool that will never come back, so that lists no
// longer wait for it; what was on it is lost. ErrNotFound without such a pool. A pool of
// "" is the default one.
func ForgetStore(ctx context.Context, poolsFile, poolName, uuid string) error {
	return withPools(poolsFile, false, func(set *pool.Set) error { return set.Forget(ctx, poolName, uuid) })
}

// AdmitStore takes a store that was given up, or refused, into its pool again.
func AdmitStore(ctx context.Context, poolsFile, poolName, uuid string) error {
	return withPools(poolsFile, false, func(set *pool.Set) error { return set.Admit(ctx, poolName, uuid) })
}

// PoolMember is a store of a pool as the operator tool shows it.
type PoolMember struct {
	Pool    string `json:"pool"`
	UUID    string `json:"uuid,omitempty"`
	Address string `json:"address,omitempty"`
	// Node is where the store runs, if it answers and says so.
	Node string `json:"node,omitempty"`
	// State is "joined", "joining", "missing", "refused" or "forgotten".
	State string `json:"state"`
	// Reason is why it is missing or was refused.
	Reason string `json:"reason,omitempty"`
	Free   int64  `json:"free,omitempty"`
	Images int    `json:"images,omitempty"`
}

// PoolMembers lists the stores of all pools as they are now. It only looks: a store that
// no controller has taken into the pool stays free.
func PoolMembers(ctx context.Context, poolsFile string) (all []PoolMember, err error) {
	err = withPools(poolsFile, true, func(set *pool.Set) error {
		for _, name := range set.Names() {
			v, err := set.Fresh(ctx, name)
			if err != nil {
				return err
			}
			all = append(all, membersOf(name, v)...)
		}
		return nil
	})
	return all, err
}

func membersOf(name string, v pool.View) (all []PoolMember) {
	for _, m := range v.Members {
		state := "joining"
		if m.Joined {
			state = "joined"
		}
		all = append(all, PoolMember{Pool: name, UUID: m.UUID, Address: m.Addr, Node: m.Status.Node, State: state, Free: m.Status.Free, Images: m.Status.Images})
	}
	for _, m := range v.Missing {
		all = append(all, PoolMember{Pool: name, UUID: m.UUID, Address: m.Addr, State: "missing", Reason: m.Err.Error()})
	}
	for _, r := range v.Refused {
		all = append(all, PoolMember{Pool: name, UUID: r.UUID, Address: r.Addr, State: "refused", Reason: r.Reason})
	}
	for _, uuid := range v.Forgotten {
		all = append(all, PoolMember{Pool: name, UUID: uuid, State: "forgotten"})
	}
	return all
}

// withPools works on the pools once. With observe, nothing is written to the stores' books.
func withPools(poolsFile string, observe bool, do func(*pool.Set) error) error {
	r, err := loadReach(poolsFile, observe)
	if err != nil {
		return err
	}
	return errors.Join(do(r.pools), r.pools.Close())
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
