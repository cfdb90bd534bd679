package driver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/store"
)

// panicking has a fault.
type panicking struct{ csi.UnimplementedNodeServer }

func (panicking) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	panic("secret detail")
}

func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	// A socket that a process has left behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	cfg := ServerConfig{Endpoint: path, Identity: NewIdentity(IdentityConfig{}), Node: panicking{}}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	if _, err := Listen(cfg); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second server: %v", err)
	}
	_, err = csi.NewNodeClient(dialUnix(t, path)).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a panic is answered with %v", err)
	}
	if _, err := Listen(ServerConfig{Endpoint: "tcp://1.2.3.4:5", Identity: cfg.Identity}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("an endpoint that is no socket: %v", err)
	}
}
