//go:build ceph

package scenario

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// fence makes the cluster shut out whoever has an image open.
func (r *rig) fence(image store.ID) {
	r.Helper()
	var status struct {
		Watchers []struct {
			Address string `json:"address"`
		} `json:"watchers"`
	}
	r.must(r.c.RbdJSON(r.Context(), &status, "status", inCluster(image)))
	if len(status.Watchers) != 1 {
		r.Fatalf("watchers: %+v", status.Watchers)
	}
	_, err := r.c.Run(r.Context(), "ceph", "osd", "blocklist", "add", status.Watchers[0].Address)
	r.must(err)
}

// TestFencedGatewayComesBack: a gateway that the cluster has shut out, because somebody
// took it for dead, goes on by itself as a new client. Requests are not answered with
// errors, which a kernel would pass on to the file system. One that is shut out again at
// once ends and says why that may be.
func TestFencedGatewayComesBack(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	img, pub := r.publish(g.start("--init"), "img")
	l := r.startLoad(g, pub, loadSize)
	l.progress(200)
	r.fence(img.ID)
	t.Logf("I/O went on after %v", l.progress(500).Round(time.Millisecond))
	if !g.running() {
		t.Fatalf("the gateway has ended:\n%s", g.tail(5))
	}
	r.fence(img.ID)
	select {
	case <-g.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("a gateway that is shut out twice runs on:\n%s", g.tail(5))
	}
	if text := g.tail(5); !strings.Contains(text, "--member") {
		t.Errorf("it says:\n%s", text)
	}
	g.begin()
	l.progress(500)
	l.stop()
	l.verify(r.exported(t.Context(), inCluster(img.ID)))
}

// TestFencedGatewayWithoutWork: one that nobody asks for anything finds out by itself.
func TestFencedGatewayWithoutWork(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	img, err := api.Create(t.Context(), store.Spec{Name: "img", Size: 1 << 20})
	r.must(err)
	dev, err := api.Open(t.Context(), img.ID)
	r.must(err)
	defer func() { _ = dev.Close() }()
	r.fence(img.ID)
	r.until(20*time.Second, "the gateway has noticed", func(context.Context) error {
		if !strings.Contains(g.tail(20), "Going on as a new client") {
			return errors.New(g.tail(3))
		}
		return nil
	})
	r.until(20*time.Second, "it serves again", func(ctx context.Context) error {
		_, err := api.Snapshot(ctx, img.ID, "s")
		return err
	})
}
