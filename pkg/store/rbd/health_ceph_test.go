//go:build ceph

package rbd_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// quick is how long a probe may take whatever is wrong.
const quick = 12 * time.Second

// check probes and compares with what is wrong; fault "" means nothing is.
func check(t *testing.T, p rbd.Options, fault rbd.Fault, is error, text ...string) rbd.Health {
	t.Helper()
	begin := time.Now()
	h, err := rbd.Probe(t.Context(), p)
	took := time.Since(begin).Round(time.Millisecond)
	t.Logf("%v: %v", took, err)
	if took > quick {
		t.Errorf("took %v", took)
	}
	if fault == "" {
		if err != nil {
			t.Error(err)
		}
		return h
	}
	var f *rbd.ProbeError
	if !errors.As(err, &f) || f.Fault != fault || !errors.Is(err, is) {
		t.Errorf("got %v, want a fault of %s (%v)", err, fault, is)
		return h
	}
	for _, want := range text {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	return h
}

// rig is a cluster with users, and the options that all probes differ from a little.
type rig struct {
	*testing.T
	ctx     context.Context
	c       *cluster.Cluster
	good    rbd.Options
	keyFile string // holds the key of good.User
}

func newRig(t *testing.T) *rig {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	c, err := cluster.Start(ctx, cluster.Options{Pools: []string{"one", "data", "closed"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := &rig{T: t, ctx: ctx, c: c, keyFile: filepath.Join(t.TempDir(), "userKey")}
	r.run("rbd", "namespace", "create", "one/ns")
	r.good = rbd.Options{
		ConfigFile: c.Conf(), User: "k8s",
		Config: map[string]string{"keyring": r.user("k8s", "profile rbd pool=one, profile rbd pool=data")},
		Pool:   "one", Namespace: "ns", DataPool: "data",
	}
	r.write(r.run("ceph", "auth", "get-key", "client.k8s"))
	return r
}

func (r *rig) run(program string, args ...string) string {
	r.Helper()
	out, err := r.c.Run(r.ctx, program, args...)
	if err != nil {
		r.Fatal(err)
	}
	return string(out)
}

func (r *rig) user(name, osd string) (keyring string) {
	r.Helper()
	keyring, err := r.c.AddUser(r.ctx, name, "mon", "profile rbd", "osd", osd)
	if err != nil {
		r.Fatal(err)
	}
	return keyring
}

func (r *rig) write(key string) {
	r.Helper()
	if err := os.WriteFile(r.keyFile, []byte(key), 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// with is the good options with a change.
func (r *rig) with(change func(*rbd.Options)) rbd.Options {
	p := r.good
	p.Config = maps.Clone(p.Config)
	change(&p)
	return p
}

func TestProbeFindsWhatIsMissing(t *testing.T) {
	r := newRig(t)
	h := check(t, r.good, "", nil)
	if h.FSID != r.c.FSID() || h.PoolID == 0 || h.DataPoolID == 0 || h.PoolID == h.DataPoolID {
		t.Errorf("health %+v of cluster %s", h, r.c.FSID())
	}
	tenants, readers := r.user("tenant", "profile rbd pool=one namespace=ns"), r.user("reader", "profile rbd-read-only pool=one")
	for _, c := range []struct {
		change func(*rbd.Options)
		fault  rbd.Fault
		is     error
		text   []string
	}{
		{change: func(p *rbd.Options) { p.ConfigFile, p.Config["mon_host"] = "", "v2:"+r.c.Address() }},
		{change: func(p *rbd.Options) { p.User, p.Config["keyring"], p.DataPool = "tenant", tenants, "" }},
		{change: func(p *rbd.Options) { p.Config = map[string]string{"keyfile": r.keyFile} }},
		{func(p *rbd.Options) { p.Pool = "on" }, rbd.FaultPool, store.ErrNotFound, []string{"no pool on", "closed, data, one"}},
		{func(p *rbd.Options) { p.DataPool = "dat" }, rbd.FaultDataPool, store.ErrNotFound, []string{"no pool dat"}},
		{func(p *rbd.Options) { p.Namespace = "no" }, rbd.FaultNamespace, store.ErrNotFound, []string{"rbd namespace create one/no"}},
		{func(p *rbd.Options) { p.Pool, p.Namespace = "closed", "" }, rbd.FaultRights, store.ErrInvalid, []string{"profile rbd pool=closed"}},
		{func(p *rbd.Options) { p.User, p.Config["keyring"] = "reader", readers }, rbd.FaultRights, store.ErrInvalid, []string{"client.reader"}},
		{func(p *rbd.Options) { p.DataPool = "closed" }, rbd.FaultRights, store.ErrInvalid, []string{"profile rbd pool=closed"}},
		{func(p *rbd.Options) { p.User = "nobody" }, rbd.FaultConfig, store.ErrInvalid, []string{"no key of client.nobody"}},
		{func(p *rbd.Options) { p.Config["no_such"] = "1" }, rbd.FaultConfig, store.ErrInvalid, []string{"the setting no_such is refused"}},
		{func(p *rbd.Options) { p.ConfigFile = "/dev/zero/no" }, rbd.FaultConfig, store.ErrInvalid, []string{"the ceph.conf cannot be read"}},
	} {
		check(t, r.with(c.change), c.fault, c.is, c.text...)
	}
	r.run("rbd", "config", "pool", "set", "one", "rbd_cache", "true")
	check(t, r.good, rbd.FaultCache, store.ErrInvalid, "rbd config pool remove one rbd_cache")
	r.run("rbd", "config", "pool", "set", "one", "rbd_cache", "false")
	check(t, r.good, "", nil)
}

func TestProbeFindsRefusedCredentials(t *testing.T) {
	r := newRig(t)
	key := r.run("ceph", "auth", "get-key", "client.k8s")
	r.write(strings.Replace(key, key[20:24], "AAAA", 1))
	for _, user := range []string{"k8s", "nobody"} {
		p := r.with(func(p *rbd.Options) { p.User, p.Config = user, map[string]string{"keyfile": r.keyFile} })
		check(t, p, rbd.FaultCredentials, store.ErrInvalid, "client."+user)
		if _, err := rbd.Probe(t.Context(), p); strings.Contains(err.Error(), key[:16]) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

// TestProbeOfWhatDoesNotAnswer: neither silence nor death of a daemon makes a probe hang.
func TestProbeOfWhatDoesNotAnswer(t *testing.T) {
	r := newRig(t)
	for _, step := range []struct {
		daemon cluster.Daemon
		fault  rbd.Fault
		text   string
	}{{cluster.OSD, rbd.FaultOSD, "the monitors answer"}, {cluster.Mon, rbd.FaultCluster, r.c.Address() + " takes connections"}} {
		r.must(r.c.Freeze(step.daemon))
		check(t, r.good, step.fault, store.ErrUnavailable, step.text)
		r.must(r.c.Thaw(step.daemon))
	}
	r.must(r.c.Ready(r.ctx))
	check(t, r.good, "", nil)
	r.must(r.c.Kill(cluster.Mon))
	check(t, r.good, rbd.FaultCluster, store.ErrUnavailable, r.c.Address()+": connect: connection refused")

	short, cancel := context.WithTimeout(r.ctx, time.Second)
	defer cancel()
	begin := time.Now()
	if _, err := rbd.Probe(short, r.good); !errors.Is(err, store.ErrUnavailable) || time.Since(begin) > 2*time.Second {
		t.Errorf("with one second: %v after %v", err, time.Since(begin))
	}
}
