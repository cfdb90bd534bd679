//go:build ceph

package scenario

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

const loadSize = 64 << 20

// publish makes an image and gives a node the right to it.
func (r *rig) publish(s store.Full, name string) (store.Info, store.Publication) {
	r.Helper()
	img, err := s.Create(r.Context(), store.Spec{Name: name, Size: loadSize})
	r.must(err)
	pub, err := s.Publish(r.Context(), img.ID, "node", store.AccessWrite)
	r.must(err)
	return img, pub
}

// TestGatewayIsKilled: ten times under load the gateway is killed and started again. No
// request fails, nothing that was answered is missing, and the new process does not wait
// until the watch and the lock of the dead one have expired, which takes 30 s.
func TestGatewayIsKilled(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	img, pub := r.publish(g.start("--init"), "img")
	l := r.startLoad(g, pub, loadSize)
	l.progress(200)
	var longest time.Duration
	for round := range 10 {
		begin := time.Now()
		g.kill()
		g.begin()
		l.progress(1)
		resumed := time.Since(begin)
		longest = max(longest, resumed)
		t.Logf("round %d: I/O went on %v after the kill", round+1, resumed.Round(time.Millisecond))
		l.progress(200)
	}
	l.stop()
	if longest > 15*time.Second {
		t.Errorf("I/O went on only after %v", longest)
	}
	l.verify(r.exported(t.Context(), inCluster(img.ID)))
}

// TestGatewayStopsInOrder: after an orderly end nothing has to be fenced, and the next
// process is there at once.
func TestGatewayStopsInOrder(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	img, pub := r.publish(g.start("--init"), "img")
	l := r.startLoad(g, pub, loadSize)
	l.progress(200)
	for range 3 {
		g.stop()
		g.begin()
		l.progress(200)
	}
	l.stop()
	l.verify(r.exported(t.Context(), inCluster(img.ID)))
	out, err := r.c.Run(t.Context(), "ceph", "osd", "blocklist", "ls")
	r.must(err)
	if text := strings.TrimSpace(string(out)); text != "" {
		t.Errorf("somebody is on the blocklist: %s", text)
	}
}

// TestDaemonsAreRestartedUnderLoad: while the OSD or the monitor is away I/O pauses, and
// then goes on; no request fails and nothing is lost.
func TestDaemonsAreRestartedUnderLoad(t *testing.T) {
	for _, objectStore := range []string{cluster.MemStore, cluster.BlueStore} {
		t.Run(objectStore, func(t *testing.T) {
			r := newRig(t, objectStore)
			g := r.newGateway("gw")
			img, pub := r.publish(g.start("--init"), "img")
			l := r.startLoad(g, pub, loadSize)
			for _, d := range []cluster.Daemon{cluster.OSD, cluster.Mon, cluster.OSD} {
				l.progress(200)
				begin := time.Now()
				if d == cluster.OSD && objectStore == cluster.MemStore {
					r.must(r.c.Stop(t.Context(), d)) // its data would not survive a kill
				} else {
					r.must(r.c.Kill(d))
				}
				r.must(r.c.Begin(d))
				l.progress(1)
				t.Logf("%s: I/O went on %v after it was ended", d, time.Since(begin).Round(time.Millisecond))
			}
			l.progress(200)
			l.stop()
			l.verify(r.exported(t.Context(), inCluster(img.ID)))
		})
	}
}

// TestGatewayWithoutCluster: it ends within seconds and says what does not answer.
func TestGatewayWithoutCluster(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	g.start("--init")
	g.stop()
	ended := func(want string) {
		t.Helper()
		begin := time.Now()
		g.begin()
		select {
		case <-g.done:
		case <-time.After(30 * time.Second):
			t.Fatalf("still running:\n%s", g.tail(10))
		}
		if text := g.tail(10); g.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(text, want) {
			t.Errorf("exit code %d, and it does not say %q:\n%s", g.cmd.ProcessState.ExitCode(), want, text)
		}
		t.Logf("%v: %s", time.Since(begin).Round(time.Millisecond), g.tail(2))
	}
	r.must(r.c.Freeze(cluster.OSD))
	ended("although the monitors answer")
	r.must(r.c.Thaw(cluster.OSD))
	r.must(r.c.Kill(cluster.Mon))
	ended(r.c.Address() + ": connect: connection refused")
}

// TestDoctor: the operator is told of each pool what is wrong with it, or that nothing is.
func TestDoctor(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	text, err := os.ReadFile(r.pools)
	r.must(err)
	more := "  - {name: lost, backend: ceph, cluster: test, cephPool: nowhere, local: /unused}\n"
	r.must(os.WriteFile(r.pools, append(text, more...), 0o600))
	out, err := exec.CommandContext(t.Context(), os.Getenv("STRATA_CEPH_BIN"), "doctor", "--pools", r.pools).CombinedOutput()
	if err == nil {
		t.Error("it finds nothing bad")
	}
	for _, want := range []string{"pool fast  ", "cluster " + r.c.FSID(), "the cluster has no pool nowhere; it has: " + cephPool, "→ check cephPool"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
}

// TestSecondGatewayOfOneDirectory: it is refused and takes nothing from the first.
func TestSecondGatewayOfOneDirectory(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	second := *g
	second.begin()
	<-second.done
	if !strings.Contains(g.tail(5), "is served by process") {
		t.Errorf("the second one says:\n%s", g.tail(5))
	}
	if _, err := api.Create(t.Context(), store.Spec{Name: "a", Size: 1 << 20}); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// TestFenceOnlyTheDead: a gateway that comes back fences the process it follows, and no
// other client of the pool.
func TestFenceOnlyTheDead(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	one, two := r.newGateway("one"), r.newGateway("two")
	first := one.start("--init")
	second := two.start()
	img, pub := r.publish(second, "img")
	if _, err := first.Lookup(t.Context(), "img"); err != nil {
		t.Fatalf("one gateway does not see what the other has made: %v", err)
	}
	l := r.startLoad(two, pub, loadSize)
	l.progress(100)
	one.kill()
	one.start()
	l.progress(500)
	l.stop()
	if n := l.gen; n != 1 {
		t.Errorf("the other gateway's client had %d connections, want 1", n)
	}
	l.verify(r.exported(t.Context(), inCluster(img.ID)))
	if err := first.Remove(t.Context(), img.ID); !errors.Is(err, store.ErrInUse) && !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("removing what is published: %v", err)
	}
}
