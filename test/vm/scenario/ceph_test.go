//go:build kernelnbd && ceph

package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ceph "github.com/strata-csi/strata/test/ceph/cluster"
)

// cephPool is the pool in the Ceph cluster.
const cephPool = "strata-test"

// cephSettings ask for a cache as bold as librbd has one, which gateways must not listen
// to: behind it, a write that was answered is lost with the process. And the cluster takes
// a client that has died for alive much longer than it does by default (30 s) and than I/O
// may stand still here (resumeBound), so that nobody can wait until it does not any more.
const cephSettings = "rbd cache = true\nrbd cache policy = writeback\n" +
	"rbd cache writethrough until flush = false\nrbd cache max dirty age = 30\n" +
	"osd client watch timeout = 240\n"

// TestCeph leads users' lives over a real Ceph cluster, which runs in the guest beside
// everything else: each node has a gateway of its own, reached over its unix sockets.
func TestCeph(t *testing.T) {
	site := startCeph(t)
	for _, s := range []struct {
		name  string
		nodes []string
		lead  func(*cluster)
	}{
		{"SnapshotRestoredBesideItsSource/ext4", []string{"n1"}, func(c *cluster) { restoredBesideItsSource(c, "ext4") }},
		{"SnapshotRestoredBesideItsSource/xfs", []string{"n1"}, func(c *cluster) { restoredBesideItsSource(c, "xfs") }},
		{"CloneOfCloneIsFlattened", []string{"n1"}, cloneOfCloneIsFlattened},
		{"VolumeGrowsUnderLoad", []string{"n1"}, growsUnderLoad},
		{"GatewayIsKilled", []string{"n1"}, func(c *cluster) { storeIsKilled(c, 10) }},
		{"ForceDetach", []string{"old", "new"}, func(c *cluster) { forceDetach(c, "ext4", nil) }},
		{"ForceDetachFromASilentGateway", []string{"new", "old"}, func(c *cluster) { forceDetach(c, "ext4", c.stores[1].process) }},
	} {
		passed := t.Run(s.name, func(t *testing.T) {
			begin := time.Now()
			site.explain(t)
			s.lead(site.cluster(t, s.nodes...))
			site.empty(t)
			t.Logf("took %v", time.Since(begin).Round(time.Second))
		})
		if !passed {
			t.Fatalf("not led after %s has failed: what it leaves behind would fail the others too", s.name)
		}
	}
}

// cephSite is a Ceph cluster that several tests have after each other.
type cephSite struct {
	*ceph.Cluster
	installations int // made so far
}

func startCeph(t *testing.T) *cephSite {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	begin := time.Now()
	c, err := ceph.Start(ctx, ceph.Options{Pools: []string{cephPool}, Bytes: 4 * gib, Extra: cephSettings})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the cluster is ready after %v", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Alive(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &cephSite{Cluster: c}
}

// explain says at the end of a failed test what the cluster says of itself.
func (s *cephSite) explain(t *testing.T) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, line := range [][]string{{"ceph", "health", "detail"}, {"rados", "df"}, {"ceph", "osd", "blocklist", "ls"}} {
			out, err := s.Run(ctx, line[0], line[1:]...)
			t.Logf("%s: %v\n%s", strings.Join(line, " "), err, out)
		}
		t.Logf("the OSD: %s", s.Log(ceph.OSD))
	})
}

// cluster is an installation of strata of its own: nodes with a gateway each, and a
// controller beside the first of them.
func (s *cephSite) cluster(t *testing.T, nodes ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	s.installations++
	pools := make(map[string]string)
	for _, n := range nodes {
		gateway := "gateway-" + n
		c.pools = filepath.Join(c.dir, gateway+".yaml")
		pools[n] = c.pools
		c.writePools(fmt.Sprintf("clusters: [{name: test, conf: %s, user: admin}]\n"+
			"pools: [{name: default, backend: ceph, cluster: test, cephPool: %s, installation: i%d, local: %s}]\n",
			s.Conf(), cephPool, s.installations, filepath.Join(c.dir, gateway)))
		c.addStore(gateway, "", "--backend", "rbd", "--pools", c.pools, "--pool", "default")
	}
	c.pools = pools[nodes[0]]
	c.addController("")
	for _, n := range nodes {
		c.pools = pools[n]
		c.addNode(n)
	}
	return c
}

// empty checks with Ceph's own tools that what was deleted is gone from the cluster once
// the gateways have cleaned up, from its trash too.
func (s *cephSite) empty(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, "no image is left in the cluster", func(ctx context.Context) error {
		for _, where := range [][]string{{"ls"}, {"trash", "ls", "--all"}} {
			out, err := s.Rbd(ctx, append(where, cephPool)...)
			if err != nil {
				return err
			}
			if left := strings.Fields(string(out)); len(left) > 0 {
				return fmt.Errorf("rbd %s: %q", strings.Join(where, " "), left)
			}
		}
		return nil
	})
}
