//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// The controller is killed after each durable step of a copy: the source's store is full,
// so that clones and restores go to the other one.
func TestKillAtEveryStepOfACopy(t *testing.T) {
	t.Setenv("STRATA_BIN", killed(t))
	r, c := random(t), newCluster(t)
	small, full := c.addSmallStore(160 * mib)
	member := func(s *storeHost) string { return fmt.Sprintf("%q", "unix:"+s.data+"/api.sock") }
	const pools = "pools:\n  - name: default\n    backend: layered\n    members: [%s]\n"
	c.writePools(fmt.Sprintf(pools, member(full)))
	c.addController("")
	c.addNode("n1")
	v := c.create("origin", 32*mib, fsVolume("ext4"), nil, nil)
	sum := writeFile(t, filepath.Join(c.up(v, "n1"), "data"), 4*mib, r)
	snap := c.snapshot(v, "origin-snap")
	c.down(v, "n1")

	c.stores = append(c.stores[:0], c.addStore("roomy", ""), full)
	c.writePools(fmt.Sprintf(pools, member(full)+", "+member(c.stores[0])))
	for _, s := range []*server{c.controller, c.nodes["n1"]} {
		s.stop()
		s.start()
		s.ready()
	}
	c.fill(full, 48*mib) // below the reserve, above half of it

	all := slices.DeleteFunc(points(t), func(p string) bool {
		return !strings.HasPrefix(p, "volume.copy.") && p != "volume.create.forwarded" && p != "volume.delete.unforwarded"
	})
	x := execute(c, all)
	for lives, before := 0, 0; len(x.left()) > 0; lives++ {
		left := x.left()
		if len(left) == before {
			t.Errorf("a whole life passes none of %q", left)
			break
		}
		before = len(left)
		began := time.Now()
		c.copyOnce(fmt.Sprintf("copy-%d-0", lives), fromVolume(v.GetVolumeId()), sum)
		c.copyOnce(fmt.Sprintf("copy-%d-1", lives), fromSnapshot(snap), sum)
		t.Logf("life %d: %v, %d of %d points passed", lives, time.Since(began).Round(time.Millisecond), len(all)-len(x.left()), len(all))
	}
	x.end()
	if err := os.Remove(filepath.Join(small, "ballast")); err != nil {
		t.Fatal(err)
	}
	c.removeSnapshot(snap)
	c.remove(v)
	c.ended()
	for _, s := range c.stores {
		c.noNotes(s)
	}
	c.log.clean(t)
	t.Logf("%d points:\n%s", len(x.table), strings.Join(x.table, "\n"))
}

// addSmallStore makes a store on a file system of its own, and tells where that is.
func (c *cluster) addSmallStore(size int64) (string, *storeHost) {
	c.t.Helper()
	dir := c.dir + "-small" // beside it: what is mounted below c.dir counts as left over
	c.mkdir(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, c.addStore(filepath.Join("..", filepath.Base(dir), "store"), "")
}

// copyOnce makes a volume of a source on the first store, looks at its file, and takes it
// away.
func (c *cluster) copyOnce(name string, source *csi.VolumeContentSource, sum string) {
	c.t.Helper()
	v := c.create(name, 48*mib, fsVolume("ext4"), source, nil)
	if !c.holds(c.stores[0], name) {
		c.t.Errorf("%s was not made on the store that has room", name)
	}
	if got := sumFile(c.t, filepath.Join(c.up(v, "n1"), "data")); got != sum {
		c.t.Errorf("%s holds %s; its source %s", name, got, sum)
	}
	c.down(v, "n1")
	c.remove(v)
}

// fill leaves so many bytes free where a store's data are.
func (c *cluster) fill(s *storeHost, free int64) {
	c.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(s.data, &st); err != nil {
		c.t.Fatal(err)
	}
	ballast := filepath.Join(filepath.Dir(s.data), "ballast")
	if err := os.WriteFile(ballast, make([]byte, int64(st.Bavail)*st.Bsize-free), 0o600); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, time.Minute, "the store is full", func(ctx context.Context) error {
		if err := quiet(ctx, os.Getenv("STRATA_BIN"), "--store", s.data, "create", "--size", "1M", "no"); err == nil {
			_ = quiet(ctx, os.Getenv("STRATA_BIN"), "--store", s.data, "rm", "no")
			return os.ErrExist
		}
		return nil
	})
}
