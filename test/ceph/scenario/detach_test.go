//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// attach opens a publication through a gateway.
func (r *rig) attach(g *gateway, pub store.Publication) (*nbd.Client, error) {
	d := nbd.Dialer{Timeout: requestTimeout, Label: "the publication of " + pub.Node}
	target := nbd.Target{Network: "unix", Address: filepath.Join(g.dir, "nbd.sock"), Export: export.Name(pub, 1)}
	return d.Dial(r.Context(), target.String())
}

// TestForceDetach: a publication is withdrawn through another gateway than the one that
// serves it. When that is answered no write of the old node takes effect any more, and a
// volume beside it on the same gateway has noticed nothing. A gateway that does not answer
// is fenced instead, and comes back.
func TestForceDetach(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	one, two := r.newGateway("one"), r.newGateway("two")
	first := one.start("--init")
	control := two.start()
	other, otherPub := r.publish(control, "other")
	beside := r.startLoad(one, otherPub, loadSize)
	beside.progress(50)

	for _, frozen := range []bool{false, true} {
		name := fmt.Sprintf("img-frozen-%v", frozen)
		img, old := r.publish(control, name)
		stale := r.startLoad(one, old, loadSize)
		stale.progress(50)
		connections := beside.gen
		if frozen {
			r.must(one.cmd.Process.Signal(syscall.SIGSTOP))
		}
		begin := time.Now()
		r.must(control.Unpublish(t.Context(), img.ID, "node"))
		took := time.Since(begin)
		t.Logf("frozen %v: withdrawn after %v", frozen, took.Round(time.Millisecond))
		if most := 5 * time.Second; !frozen && took > most {
			t.Errorf("took %v", took)
		}
		pub, err := control.Publish(t.Context(), img.ID, "node2", store.AccessWrite)
		r.must(err)
		c, err := r.attach(two, pub)
		r.must(err)
		want := bytes.Repeat([]byte{0xa5}, 1<<20)
		for off := int64(0); off < loadSize; off += int64(len(want)) {
			_, err := c.WriteAt(want, off)
			r.must(err)
		}
		if frozen {
			r.must(one.cmd.Process.Signal(syscall.SIGCONT))
		} else if beside.gen != connections {
			t.Error("the connection of another volume was cut")
		}
		beside.progress(200)
		stale.abandon()
		if data := r.exported(t.Context(), inCluster(img.ID)); len(bytes.ReplaceAll(data, want, nil)) != 0 {
			t.Error("a write of the old node is in the image")
		}
		r.must(c.Close())
		r.until(20*time.Second, "an orderly detach is withdrawn at once", func(ctx context.Context) error {
			return first.Unpublish(ctx, img.ID, "node2")
		})
	}
	beside.stop()
	beside.verify(r.exported(t.Context(), inCluster(other.ID)))
	noted := 0
	r.must(control.Notes(t.Context(), "hold/", func(key, _ string) error {
		noted++
		t.Logf("left: %s", key)
		return nil
	}))
	if noted > 1 { // that of the other volume may not be gone yet
		t.Errorf("%d notes about connections are left", noted)
	}
}

// abandon ends a load whose publication was withdrawn: none of its writers may have an
// error reply, and none gets any further.
func (l *load) abandon() {
	l.r.Helper()
	close(l.stopping)
	l.mu.Lock()
	l.withdrawn = true
	l.mu.Unlock()
	l.wg.Wait()
	close(l.failures)
	for err := range l.failures {
		if !errors.Is(err, errWithdrawn) {
			l.r.Error(err)
		}
	}
}
