package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// Gateway is a pool of a Ceph cluster that a store process serves. Each node has a
// gateway of its own, and control may be asked of any of them.
type Gateway struct {
	// PoolsFile describes the pools, and Pool is the name there of the one to serve.
	PoolsFile, Pool string
	// Member names this gateway for ever: one that starts makes sure that an earlier one
	// of its name is dead. "" means the host's name with the data directory.
	Member string

	options rbd.Options // what load has found
}

// load reads the pools file.
func (g Gateway) load(data string) (Gateway, error) {
	cfg, err := pool.Load(g.PoolsFile)
	if err != nil {
		return g, err
	}
	for _, p := range cfg.Pools {
		if p.Name != g.Pool {
			continue
		}
		if p.Ceph == nil {
			return g, fmt.Errorf("%s: pool %s has backend %s, and a gateway serves one of backend %s: %w", g.PoolsFile, p.Name, p.Backend, pool.BackendCeph, store.ErrInvalid)
		}
		if g.Member == "" {
			if g.Member, err = member(data); err != nil {
				return g, err
			}
		}
		g.options = cephOptions(*p.Ceph)
		g.options.Member = g.Member
		return g, nil
	}
	return g, fmt.Errorf("%s has no pool %q: %w", g.PoolsFile, g.Pool, store.ErrInvalid)
}

// member is the default name of a gateway. Its data directory is part of it, because
// several may run on a host, and the lock there makes sure that an earlier one is dead.
func member(data string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this host: %w", err)
	}
	name := host + ":" + data
	if len(name) > store.MaxName {
		name = fmt.Sprintf("%.40s:%x", host, sha256.Sum256([]byte(name)))
	}
	return name, nil
}

// cephOptions are those of the backend for a pool in a pools file.
func cephOptions(c pool.Ceph) rbd.Options {
	o := rbd.Options{
		ConfigFile: c.Cluster.Conf, User: c.Cluster.User, Config: make(map[string]string),
		Pool: c.Pool, Namespace: c.Namespace, DataPool: c.DataPool, Installation: c.Installation,
	}
	for _, s := range [][2]string{
		{"mon_host", strings.Join(c.Cluster.Monitors, ",")}, {"keyring", c.Cluster.Keyring}, {"keyfile", c.Cluster.KeyFile},
	} {
		if s[1] != "" {
			o.Config[s[0]] = s[1]
		}
	}
	return o
}

// open opens the pool, after asking the cluster what is wrong if something is: the
// backend itself waits for a cluster that does not answer.
func (g Gateway) open(ctx context.Context, cfg Config) (store.Full, error) {
	if _, err := rbd.Probe(ctx, g.options); err != nil {
		return nil, fmt.Errorf("pool %s: %w", g.Pool, err)
	}
	o := g.options
	o.Init, o.Policy = cfg.Init, cfg.Policy
	s, err := rbd.Open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", g.Pool, err)
	}
	return rbd.Guard(s), nil
}

// errShutOut ends a gateway that the cluster has shut out.
var errShutOut = errors.New("the cluster has shut this gateway out, as somebody took it for dead")

// tooSoon is the time within which a gateway is not shut out twice, unless it has a twin
// of the same name somewhere, which it would shut out in turn. Then it ends.
const tooSoon = time.Minute

// shutOut returns errShutOut when the cluster has shut the backend out, if it is one to
// which that can happen, and nil when the context ends.
func shutOut(ctx context.Context, backend store.Full) error {
	b, ok := backend.(interface{ Fenced() <-chan struct{} })
	if !ok {
		return nil
	}
	select {
	case <-b.Fenced():
		return errShutOut
	case <-ctx.Done():
		return nil
	}
}

// PoolHealth is what a cluster says of one pool of backend ceph.
type PoolHealth struct {
	Pool string
	// Err is why a gateway could not serve it, nil if it could.
	Err error
	// Seen describes one that works.
	Seen string
}

// ProbePools asks the clusters of a pools file for each of their pools, all at once; it
// takes as long as a cluster that does not answer, some seconds.
func ProbePools(ctx context.Context, poolsFile string) ([]PoolHealth, error) {
	cfg, err := pool.Load(poolsFile)
	if err != nil {
		return nil, err
	}
	var all []PoolHealth
	for _, p := range cfg.Pools {
		if p.Ceph != nil {
			all = append(all, PoolHealth{Pool: p.Name})
		}
	}
	var wg sync.WaitGroup
	for _, p := range cfg.Pools {
		i := slices.IndexFunc(all, func(h PoolHealth) bool { return h.Pool == p.Name })
		if i < 0 {
			continue
		}
		wg.Go(func() {
			h, err := rbd.Probe(ctx, cephOptions(*p.Ceph))
			all[i].Err = err
			all[i].Seen = fmt.Sprintf("cluster %s, connected in %v, an OSD answers in %v",
				h.FSID, h.Connect.Round(time.Millisecond), h.Request.Round(time.Millisecond))
		})
	}
	wg.Wait()
	return all, nil
}
