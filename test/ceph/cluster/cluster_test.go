//go:build ceph

package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/test/ceph/cluster"
)

func start(t *testing.T, opts cluster.Options) (context.Context, *cluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	begin := time.Now()
	c, err := cluster.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, c
}

// put imports random data as an image and returns it.
func put(ctx context.Context, t *testing.T, c *cluster.Cluster, image string) []byte {
	t.Helper()
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rbd(ctx, "import", "--no-progress", path, image); err != nil {
		t.Fatal(err)
	}
	return data
}

func holds(ctx context.Context, t *testing.T, c *cluster.Cluster, image string, want []byte) {
	t.Helper()
	got, err := c.Rbd(ctx, "export", "--no-progress", image, "-")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s holds other data than was written", image)
	}
}

func TestDaemonsAreRestarted(t *testing.T) {
	for store, end := range map[string]func(context.Context, *cluster.Cluster) error{
		cluster.MemStore: func(ctx context.Context, c *cluster.Cluster) error { return c.Stop(ctx, cluster.OSD) },
		cluster.BlueStore: func(_ context.Context, c *cluster.Cluster) error {
			return c.Kill(cluster.OSD)
		},
	} {
		t.Run(store, func(t *testing.T) {
			ctx, c := start(t, cluster.Options{ObjectStore: store})
			want := put(ctx, t, c, "rbd/a")
			for _, again := range []func() error{
				func() error { return end(ctx, c) }, func() error { return c.Begin(cluster.OSD) },
				func() error { return c.Kill(cluster.Mon) }, func() error { return c.Begin(cluster.Mon) },
				func() error { return c.Ready(ctx) },
			} {
				if err := again(); err != nil {
					t.Fatal(err)
				}
			}
			holds(ctx, t, c, "rbd/a", want)
		})
	}
}

func TestUserSeesItsPoolOnly(t *testing.T) {
	ctx, c := start(t, cluster.Options{Pools: []string{"mine", "theirs"}})
	keyring, err := c.AddUser(ctx, "one", "mon", "profile rbd", "osd", "profile rbd pool=mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rbd(ctx, "--id", "one", "--keyring", keyring, "ls", "mine"); err != nil {
		t.Error(err)
	}
	if _, err := c.Rbd(ctx, "--id", "one", "--keyring", keyring, "ls", "theirs"); err == nil {
		t.Error("a user lists a pool that it has no right to")
	}
}

func TestDaemonThatEndsByItselfIsTold(t *testing.T) {
	ctx, c := start(t, cluster.Options{})
	if err := syscall.Kill(c.PID(cluster.OSD), syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Ready(ctx); err == nil || !strings.Contains(err.Error(), "osd.0 has ended") {
		t.Errorf("Ready without an OSD: %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("that was told after %v", took)
	}
}
