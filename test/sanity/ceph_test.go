//go:build ceph && !kernelnbd

package sanity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// TestControllerOverCeph runs the controller half against a gateway of a real cluster.
func TestControllerOverCeph(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("", "csi") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "gw")
	controllerHalf(t, dir, app.Config{
		Data: data, Init: true, Gateway: app.Gateway{PoolsFile: filepath.Join(dir, "pools.yaml"), Pool: "default"},
	}, fmt.Sprintf("clusters: [{name: test, conf: %s, user: admin}]\n"+
		"pools:\n  - {name: default, backend: ceph, cluster: test, cephPool: rbd, local: %s}\n", c.Conf(), data))
}
