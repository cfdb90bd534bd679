package driver

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// askLikeKubelet finds the socket, asks, and says how it went.
func askLikeKubelet(t *testing.T, path, problem string) (*pluginregistration.PluginInfo, error) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := pluginregistration.NewRegistrationClient(conn)
	info, err := c.GetInfo(t.Context(), &pluginregistration.InfoRequest{})
	if err != nil {
		return nil, err
	}
	_, err = c.NotifyRegistrationStatus(t.Context(), &pluginregistration.RegistrationStatus{PluginRegistered: problem == "", Error: problem})
	return info, err
}

func TestRegistration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugins_registry")
	r, err := NewRegistration(RegistrationConfig{Dir: dir, Endpoint: "/var/lib/kubelet/plugins/csi.strata.dev/csi.sock", Log: logr.Discard(), Every: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	path := filepath.Join(dir, "csi.strata.dev-reg.sock")
	ask := func(problem string) *pluginregistration.PluginInfo {
		t.Helper()
		end := time.NewTimer(10 * time.Second)
		defer end.Stop()
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for {
			info, err := askLikeKubelet(t, path, problem)
			if err == nil {
				return info
			}
			select {
			case <-again.C:
			case <-end.C:
				t.Fatal(err)
			}
		}
	}
	info := ask("no such version")
	if known, problem := r.State(); known || problem != "no such version" {
		t.Errorf("registered %v, %q after a refusal", known, problem)
	}
	if info.GetType() != "CSIPlugin" || info.GetName() != "csi.strata.dev" || info.GetEndpoint() != "/var/lib/kubelet/plugins/csi.strata.dev/csi.sock" ||
		!slices.Equal(info.GetSupportedVersions(), []string{"1.0.0"}) {
		t.Errorf("info %v", info)
	}
	ask("")
	if known, problem := r.State(); !known || problem != "" {
		t.Errorf("registered %v, %q", known, problem)
	}
	// Kubelet's directory is made anew: the driver is there again.
	for range 3 {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		ask("")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := NewRegistration(RegistrationConfig{Dir: "relative", Endpoint: "/x"}); err == nil {
		t.Error("a relative directory was accepted")
	}
}
