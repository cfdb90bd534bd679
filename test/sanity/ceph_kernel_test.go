//go:build kernelnbd && ceph

package sanity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/storeapi"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestSanityOverCeph runs all of csi-sanity, in mount and in block mode, against the
// processes that a node of a pool in Ceph has: a gateway, a controller and a node, with a
// real cluster beside them in the guest.
func TestSanityOverCeph(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{Bytes: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	d := target{
		controller: filepath.Join(dir, "csi.sock"), node: filepath.Join(dir, "node.sock"), data: filepath.Join(dir, "gw"),
	}
	pools := filepath.Join(dir, "pools.yaml")
	text := fmt.Sprintf("clusters: [{name: test, conf: %s, user: admin}]\n"+
		"pools: [{name: default, backend: ceph, cluster: test, cephPool: rbd, local: %s}]\n", c.Conf(), d.data)
	if err := os.WriteFile(pools, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	wantNoDevices(t)
	strata(t, "store", "--backend", "rbd", "--data", d.data, "--pools", pools, "--pool", "default", "--init")
	strata(t, "controller", "--pools", pools, "--endpoint", "unix://"+d.controller)
	strata(t, "node", "--pools", pools, "--endpoint", "unix://"+d.node, "--state", filepath.Join(dir, "node"),
		"--node-id", "sanity", "--nbd-range", "64-71")
	d.awaitNode(t, "sanity")
	run(t, d, nil, "mount", "block")
}

// awaitNode waits until the store knows a node, and the controller can ask the store.
func (d target) awaitNode(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	controller := csi.NewControllerClient(dial(t, d.controller))
	var s *storeapi.Client
	for {
		_, err := os.Stat(filepath.Join(d.data, "api.sock"))
		if err == nil && s == nil {
			s = d.store(t) // which looks what there is
		}
		if err == nil {
			_, err = s.Note(ctx, "node/"+name)
		}
		if err == nil {
			_, err = controller.ListVolumes(ctx, &csi.ListVolumesRequest{})
		}
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not ready to serve node %s: %v", name, err)
		}
	}
}
