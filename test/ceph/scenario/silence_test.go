//go:build ceph

package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

// threads is how many threads the gateway has.
func (g *gateway) threads() (n int) {
	g.r.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	g.r.must(err)
	_, rest, _ := strings.Cut(string(b), "Threads:")
	_, err = fmt.Sscan(rest, &n)
	g.r.must(err)
	return n
}

// TestStatusOfASilentCluster: while monitor or OSD say nothing, whoever asks for the status
// is told so in time, and those who ask do not pile up. Without the monitor I/O goes on.
func TestStatusOfASilentCluster(t *testing.T) {
	r := newRig(t, cluster.MemStore)
	g := r.newGateway("gw")
	api := g.start("--init")
	img, pub := r.publish(api, "img")
	l := r.startLoad(g, pub, loadSize)
	l.progress(100)
	for _, d := range []cluster.Daemon{cluster.Mon, cluster.OSD} {
		r.must(r.c.Freeze(d))
		before := g.threads()
		for range 60 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := api.Status(ctx); !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s is frozen, the status says %v", d, err)
			}
			cancel()
		}
		if d == cluster.Mon {
			l.progress(100)
		}
		if after := g.threads(); after > before+15 {
			t.Errorf("%s is frozen: 60 questions made %d threads of %d", d, after, before)
		}
		r.must(r.c.Thaw(d))
		r.until(20*time.Second, "the status is told again", func(ctx context.Context) error {
			_, err := api.Status(ctx)
			return err
		})
		l.progress(100)
	}
	l.stop()
	l.verify(r.exported(t.Context(), inCluster(img.ID)))
}
