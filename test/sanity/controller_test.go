//go:build !kernelnbd

package sanity

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/driver"
)

// nodeName is the name of the only node.
const nodeName = "sanity"

// name is a node that has a name and a limit, and attaches nothing.
type name struct{ csi.UnimplementedNodeServer }

func (name) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: nodeName, MaxVolumesPerNode: 8}, nil
}

func (name) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return new(csi.NodeGetCapabilitiesResponse), nil
}

// The clean-up of each spec takes back what was never there.

func (name) NodeUnstageVolume(context.Context, *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return new(csi.NodeUnstageVolumeResponse), nil
}

func (name) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return new(csi.NodeUnpublishVolumeResponse), nil
}

// background runs serve until the test ends.
func background(t *testing.T, what string, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// TestController runs the controller half of csi-sanity. The node's half needs a kernel.
func TestController(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	controllerHalf(t, dir, app.Config{Data: data, Init: true}, "pools: [{name: default, local: "+data+"}]\n")
}

// controllerHalf runs it against a store of its own, in a directory of its own.
func controllerHalf(t *testing.T, dir string, cfg app.Config, poolsFile string) {
	d := target{controller: filepath.Join(dir, "csi.sock"), node: filepath.Join(dir, "node.sock"), data: cfg.Data}
	pools := filepath.Join(dir, "pools.yaml")
	if err := os.WriteFile(pools, []byte(poolsFile), 0o600); err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{})
	cfg.AllowUnsafe, cfg.Ready = true, func(app.Serving) { close(serving) }
	background(t, "store", func(ctx context.Context) error { return app.Store(ctx, cfg) })
	<-serving
	background(t, "controller", func(ctx context.Context) error {
		return app.Controller(ctx, app.ControllerConfig{
			PoolsFile: pools, Endpoint: "unix://" + d.controller, Version: "sanity",
		})
	})
	l, err := net.Listen("unix", d.node)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, driver.NewIdentity(driver.IdentityConfig{Version: "sanity", Controller: true}))
	csi.RegisterNodeServer(server, name{})
	background(t, "node", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, server.Stop)()
		return server.Serve(l)
	})
	if err := d.store(t).SwapNote(t.Context(), "node/"+nodeName, "", `{"maxVolumes":8}`); err != nil {
		t.Fatal(err)
	}
	run(t, d, map[string]string{"Node Service": "the node's half runs in a guest, see doc.go"}, "mount", "block")
}
