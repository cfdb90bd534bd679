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
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("a panic is answered with %v", err)
	}
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ServerConfig{Endpoint: file, Identity: cfg.Identity}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a file in the socket's place: %v", err)
	}
	if text, err := os.ReadFile(file); string(text) != "data" {
		t.Errorf("the file became %q, %v", text, err)
	}
	if _, err := Listen(ServerConfig{Endpoint: "tcp://1.2.3.4:5", Identity: cfg.Identity}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("an endpoint that is no socket: %v", err)
	}
}
