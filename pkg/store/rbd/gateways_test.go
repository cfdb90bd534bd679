//go:build ceph

package rbd_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// second opens another gateway of the bench's installation.
func (b *bench) second(lease time.Duration) *rbd.Store {
	b.Helper()
	o := b.o
	o.Member, o.Init, o.Lease = "other", false, lease
	s := open(b.T, o)
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Errorf("close the other gateway: %v", err)
		}
	})
	return s
}

// TestGateways: two gateways of one installation see each other's changes.
func TestGateways(t *testing.T) {
	l := newLab(t)
	b := newBench(t, l, 64<<10)
	other := b.second(0)
	img := b.create(store.Spec{Name: "img", Size: mib})
	b.write(img, 0, letters(mib, 'a'))
	child := b.clone("child", img)
	grand := b.clone("grand", child)
	d, err := other.Open(t.Context(), grand.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := make([]byte, mib)
	if _, err := d.ReadAt(p[:1], 0); err != nil {
		t.Fatal(err)
	}
	b.must(b.s.Flatten(t.Context(), child.ID))
	b.must(b.s.Remove(t.Context(), img.ID))
	b.gone(img)
	if _, err := d.ReadAt(p, 0); err != nil || string(p) != string(letters(mib, 'a')) {
		t.Errorf("with its grandparent flattened away by another gateway the image shows other bytes, %v", err)
	}
	if _, err := b.s.Resize(t.Context(), grand.ID, 2*mib); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("x"), 2*mib-1); err != nil {
		t.Errorf("writing to what another gateway has added: %v", err)
	}
	if _, err := b.s.Snapshot(t.Context(), grand.ID, "s"); err != nil {
		t.Errorf("snapshot of what another gateway has open: %v", err)
	}
}

// TestGatewayHoldsLock: the gateway that has an image open for writing does its flatten,
// whoever was asked for it, and does with it what the other one is asked.
func TestGatewayHoldsLock(t *testing.T) {
	b := newBench(t, newLab(t), 16<<10)
	other := b.second(0)
	img := b.create(store.Spec{Name: "img", Size: 32 * mib})
	b.write(img, 0, letters(32*mib, 'a'))
	child := b.clone("child", img)
	d, err := other.Open(t.Context(), child.ID)
	b.must(err)
	defer d.Close()
	_, err = d.WriteAt([]byte("b"), 0)
	b.must(err)
	job, err := b.s.StartFlatten(t.Context(), child.ID)
	b.must(err)
	b.must(b.s.WatchJob(t.Context(), job.ID, func(store.Job) error { return nil }))
	if got := b.stat(child); got.Depth != 0 {
		t.Errorf("watched to its end, the flatten left %+v", got)
	}
	here, err := b.s.Status(t.Context())
	b.must(err)
	there, err := other.Status(t.Context())
	b.must(err)
	if here.Copied != 0 || there.Copied < 30*mib {
		t.Errorf("the gateway without the lock copied %d bytes, the one with it %d", here.Copied, there.Copied)
	}
}

// TestGatewayDies: what a gateway leaves that gives no sign of life is done by another.
func TestGatewayDies(t *testing.T) {
	b := newBench(t, newLab(t), 16<<10)
	o := b.o
	o.Member, o.Init, o.Lease = "mortal", false, 2*time.Second
	mortal := open(t, o)
	img := b.create(store.Spec{Name: "img", Size: 32 * mib})
	b.write(img, 0, letters(32*mib, 'a'))
	child := b.clone("child", img)
	job, err := mortal.StartFlatten(t.Context(), child.ID)
	b.must(err)
	b.must(mortal.PauseJob(t.Context(), job.ID))
	b.must(mortal.Kill())
	b.s2(o)
	b.must(b.s.ResumeJob(t.Context(), job.ID))
	b.must(b.s.WatchJob(t.Context(), job.ID, func(store.Job) error { return nil }))
	if got := b.stat(child); got.Depth != 0 {
		t.Errorf("after the take-over the image is %+v", got)
	}
	b.must(b.s.Remove(t.Context(), img.ID))
	b.gone(img)
	b.same(child, letters(32*mib, 'a'))
}

// s2 replaces the bench's gateway by one that waits as short as that for the dead.
func (b *bench) s2(o rbd.Options) {
	b.Helper()
	b.must(b.s.Close())
	b.o.Lease = o.Lease
	b.s = open(b.T, b.o)
}

// watched opens an image as somebody else, which keeps the library from removing it.
func (b *bench) watched(name string) (end func()) {
	b.Helper()
	conn, err := rados.NewConn()
	b.must(err)
	b.must(conn.ReadConfigFile(b.l.conf))
	b.must(conn.Connect())
	io, err := conn.OpenIOContext("rbd")
	b.must(err)
	img, err := librbd.OpenImage(io, name, librbd.NoSnapshot)
	b.must(err)
	return func() {
		b.must(img.Close())
		io.Destroy()
		conn.Shutdown()
	}
}

// TestStrays: what nothing needs goes with the next start although its job was cancelled.
func TestStrays(t *testing.T) {
	b := newBench(t, newLab(t), 64<<10)
	img := b.create(store.Spec{Name: "img", Size: mib})
	end := b.watched(b.name(img))
	b.must(b.s.Remove(t.Context(), img.ID))
	jobs, err := b.s.Jobs(t.Context())
	b.must(err)
	if len(jobs) != 1 {
		t.Fatalf("the jobs are %+v, want one that cannot end", jobs)
	}
	b.must(b.s.CancelJob(t.Context(), jobs[0].ID))
	b.must(b.s.Close())
	end()
	if left := string(b.rbd("ls")); !strings.Contains(left, b.name(img)) {
		t.Fatalf("the image is gone already: %s", left)
	}
	b.s = open(t, b.o)
	b.gone(img)
}
