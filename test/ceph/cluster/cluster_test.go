//go:build ceph

package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/test/ceph/cluster"
)

func start(t *testing.T, opts cluster.Options) (*cluster.Cluster, context.Context) {
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
	return c, ctx
}

// put imports random data as an image and returns it.
func put(t *testing.T, ctx context.Context, c *cluster.Cluster, image string) []byte {
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

func holds(t *testing.T, ctx context.Context, c *cluster.Cluster, image string, want []byte) {
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
	for store, end := range map[string]func(*cluster.Cluster, context.Context) error{
		cluster.MemStore: func(c *cluster.Cluster, ctx context.Context) error { return c.Stop(ctx, cluster.OSD) },
		cluster.BlueStore: func(c *cluster.Cluster, _ context.Context) error {
			return c.Kill(cluster.OSD)
		},
	} {
		t.Run(store, func(t *testing.T) {
			c, ctx := start(t, cluster.Options{ObjectStore: store})
			want := put(t, ctx, c, "rbd/a")
			for _, again := range []func() error{
				func() error { return end(c, ctx) }, func() error { return c.Begin(cluster.OSD) },
				func() error { return c.Kill(cluster.Mon) }, func() error { return c.Begin(cluster.Mon) },
				func() error { return c.Ready(ctx) },
			} {
				if err := again(); err != nil {
					t.Fatal(err)
				}
			}
			holds(t, ctx, c, "rbd/a", want)
		})
	}
}

func TestUserSeesItsPoolOnly(t *testing.T) {
	c, ctx := start(t, cluster.Options{Pools: []string{"mine", "theirs"}})
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
	dir := filepath.Join(t.TempDir(), "c")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir, Extra: "osd objectstore = nosuchstore\n"})
	if err == nil {
		_ = c.Close()
		t.Fatal("a cluster with a broken configuration came up")
	}
	if !strings.Contains(err.Error(), "nosuchstore") {
		t.Errorf("the error does not tell what failed: %v", err)
	}
}
