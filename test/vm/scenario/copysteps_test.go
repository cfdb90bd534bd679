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

	"golang.org/x/sys/unix"
)

// The controller is killed after each durable step of a copy: the source's store is full,
// so that clones and restores go to the other one.
func TestKillAtEveryStepOfACopy(t *testing.T) {
	t.Setenv("STRATA_BIN", killed(t))
	r, c := random(t), newCluster(t)
	small := c.dir + "-small" // beside it: what is mounted below c.dir counts as left over
	c.mkdir(small)
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=160m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	full := c.addStore(filepath.Join("..", filepath.Base(small), "store"), "")
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
		for i, source := range []string{v.GetVolumeId(), snap} {
			name := fmt.Sprintf("copy-%d-%d", lives, i)
			from := fromVolume(source)
			if i == 1 {
				from = fromSnapshot(source)
			}
			copied := c.create(name, 48*mib, fsVolume("ext4"), from, nil)
			if !c.holds(c.stores[0], name) {
				t.Errorf("%s was not made on the store that has room", name)
			}
			if got := sumFile(t, filepath.Join(c.up(copied, "n1"), "data")); got != sum {
				t.Errorf("%s holds %s; its source %s", name, got, sum)
			}
			c.down(copied, "n1")
			c.remove(copied)
		}
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
