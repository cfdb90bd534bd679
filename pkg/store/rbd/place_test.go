//go:build ceph

package rbd_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// newPools is a lab of its own with two pools, whatever cluster others use.
func newPools(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	if missing := cluster.Missing(); len(missing) > 0 {
		t.Skipf("Ceph is not installed here: %v are missing; see hack/ceph.sh", missing)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{Pools: []string{"rbd", "data"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &lab{conf: c.Conf(), pool: c, label: "place"}
}

// TestPlaces: headers in a namespace, data in a pool of its own; installations beside each
// other do not see each other; and what would lose answered writes is refused.
func TestPlaces(t *testing.T) {
	l := newPools(t)
	b := &bench{T: t, l: l, o: l.options(64 << 10)}
	b.rbd("namespace", "create", "--namespace", "tenant")
	o := b.o
	o.Namespace, o.DataPool = "tenant", "data"
	s, plain := open(t, o), open(t, b.o)
	b.s = s
	img := b.create(store.Spec{Name: "img", Size: mib})
	b.write(img, 0, letters(mib, 'a'))
	child := b.clone("child", b.snapshot(img, "s"))
	b.must(s.Flatten(t.Context(), child.ID))
	b.must(s.Remove(t.Context(), img.ID))
	b.settle()
	if got := b.read(child); string(got) != string(letters(mib, 'a')) {
		t.Error("the clone shows other bytes than it should")
	}
	objects := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "rados", append([]string{"--conf", l.conf}, args...)...).Output()
		b.must(err)
		return string(out)
	}
	if in := objects("--pool", "rbd", "--namespace", "tenant", "ls"); !strings.Contains(in, "catalogue") || strings.Contains(in, "rbd_data") {
		t.Errorf("the namespace has the objects %s", in)
	}
	if in := objects("--pool", "data", "--namespace", "tenant", "ls"); strings.Count(in, "rbd_data") < 16 {
		t.Errorf("the data pool has the objects %s", in)
	}
	none := func(i store.Info) error { return errors.New(i.Name) }
	b.must(plain.Walk(t.Context(), none))
	problems, err := plain.Check(t.Context(), true)
	if err != nil || len(problems) > 0 {
		t.Errorf("beside another installation check finds %v, %v", problems, err)
	}
	b.must(errors.Join(s.Close(), plain.Close()))

	wrong := o
	wrong.Init, wrong.Installation = false, "nobody"
	if _, err := rbd.Open(t.Context(), wrong); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an installation that was never made is opened: %v", err)
	}
}

// TestCacheIsRefused: settings of the pool or an image outweigh those of the client.
func TestCacheIsRefused(t *testing.T) {
	l := newPools(t)
	b := newBench(t, l, 64<<10)
	img := b.create(store.Spec{Name: "img", Size: mib})
	b.rbd("config", "image", "set", b.name(img), "rbd_cache", "true")
	if _, err := b.s.Open(t.Context(), img.ID); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "rbd_cache") {
		t.Errorf("an image with a cache is opened: %v", err)
	}
	b.rbd("config", "image", "rm", b.name(img), "rbd_cache")
	d, err := b.s.Open(t.Context(), img.ID)
	b.must(err)
	b.must(d.Close())
	pool := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "rbd", append([]string{"--conf", l.conf, "config", "pool"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("rbd config pool %v: %v: %s", args, err, out)
		}
	}
	pool("set", "rbd", "rbd_cache", "true")
	if _, err := rbd.Open(t.Context(), l.options(0)); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "rbd_cache") {
		t.Errorf("a pool with a cache is opened: %v", err)
	}
	pool("rm", "rbd", "rbd_cache")
}
