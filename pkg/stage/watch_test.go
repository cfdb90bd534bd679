package stage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

// alive tells whether a volume's device has a link.
func (r *rig) alive(id store.ID) bool { return r.Store.Sessions(id) == 1 }

func TestStoreComesBack(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	for range 3 {
		r.forgetEvents()
		r.Store.Kill()
		r.await(stage.LinkLost, req.Volume)
		if e := r.await(stage.LinkRetry, req.Volume); !errors.Is(e.Err, store.ErrUnavailable) {
			t.Errorf("retry because of %v", e.Err)
		}
		if h, err := r.svc.Health(req.Volume); err != nil || h.Lost.IsZero() {
			t.Errorf("health %+v, %v while the store is away", h, err)
		}
		r.Store.Start()
		if e := r.await(stage.LinkBack, req.Volume); e.After <= 0 {
			t.Errorf("back after %v", e.After)
		}
		if !r.alive(imageID(1)) {
			t.Error("no session")
		}
	}
	if h, err := r.svc.Health(req.Volume); err != nil || h != (stage.Health{}) {
		t.Errorf("health %+v, %v", h, err)
	}
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.clean("at the end")
}

// The store dies while mkfs runs. The link is restored meanwhile, though the volume is
// busy, or mkfs would hang for ever.
func TestReconnectDuringAnOperation(t *testing.T) {
	r := newRig(t, false)
	req := r.ext4(1)
	killed := false
	r.Exec.Fail.Set(func(program string) error {
		if program == "mkfs.ext4" && !killed {
			killed = true
			r.Store.Kill()
			r.await(stage.LinkLost, req.Volume)
			r.Store.Start()
			r.await(stage.LinkBack, req.Volume)
		}
		return nil
	})
	r.must(r.svc.Stage(t.Context(), req))
	if !killed || !r.alive(imageID(1)) {
		t.Errorf("killed %v, alive %v", killed, r.alive(imageID(1)))
	}
}

// The store dies while the file system is unmounted, in this process or before it was
// started. What has to be written back is.
func TestReconnectDuringUnmount(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req, second := r.ext4(1), r.ext4(2)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Stage(ctx, second))
	died := 0
	r.Mounter.Fail.Set(func(string) error {
		died++
		r.forgetEvents()
		r.Store.Kill()
		r.await(stage.LinkLost, req.Volume)
		r.Store.Start()
		r.await(stage.LinkBack, req.Volume)
		return nil
	})
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.Mounter.Fail.Set(nil)
	if died != 1 {
		t.Errorf("the store died %d times", died)
	}
	if !r.crashing("stage.unstage.recorded", 1, func(ctx context.Context) error {
		return r.svc.Unstage(ctx, second.Volume, second.Path)
	}) {
		t.Fatal("the point was not reached")
	}
	r.close()
	r.Kernel.Forget()
	r.Store.Kill()
	r.Store.Start()
	r.open()
	r.await(stage.LinkBack, second.Volume)
	r.must(r.svc.Unstage(ctx, second.Volume, second.Path))
	r.clean("at the end")
}

// A node process that starts anew leaves links that work alone.
func TestRestartLeavesHealthyLinks(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req, raw := r.ext4(1), r.block(2)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Stage(ctx, raw))
	before := r.Store.Generations()
	r.restart()
	asked := make(chan struct{}, 1)
	r.Store.Fail.Set(func(op string) error {
		if op == "Publications" {
			select {
			case asked <- struct{}{}:
			default:
			}
		}
		return nil
	})
	for range 6 {
		<-asked
	}
	r.Store.Fail.Set(nil)
	if now := r.Store.Generations(); !slices.Equal(now, before) {
		t.Errorf("generations are %v, were %v", now, before)
	}
	if n := r.count(stage.LinkLost); n > 0 {
		t.Errorf("%d links are said to be lost", n)
	}
	// The store dies now, and no descriptor tells. That it cannot be asked is a problem
	// that is shown, and no proof.
	r.Store.Kill()
	r.until("told of the problem", func() bool {
		h, err := r.svc.Health(req.Volume)
		return err == nil && strings.Contains(h.Problem, "the store is down")
	})
	if n := r.count(stage.LinkLost); n > 0 {
		t.Errorf("%d links are said to be lost", n)
	}
	r.Store.Start()
	r.await(stage.LinkLost, req.Volume)
	r.await(stage.LinkBack, req.Volume)
	r.await(stage.LinkBack, raw.Volume)
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.must(r.svc.Unstage(ctx, raw.Volume, raw.Path))
	r.clean("at the end")
}

// The store is started anew while no node process runs.
func TestRestartAfterTheStoreDied(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.close()
	r.Kernel.Forget()
	r.Store.Kill()
	r.Store.Start()
	r.open()
	r.await(stage.LinkBack, req.Volume)
	if !r.alive(imageID(1)) {
		t.Error("no session")
	}
}

// The kernel tells of a dead link that no descriptor shows.
func TestKernelTells(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	r.tune = func(c *stage.Config) { c.Tick = time.Hour } // no reads by themselves
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.restart()
	v, _ := r.volume(req.Volume)
	r.Store.Kill()
	r.Store.Start()
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	r.Kernel.Tell(devices[0].Index)
	r.await(stage.LinkBack, v.Volume)
}

// A crash at each point of a reconnect, and a record that has forgotten its generation.
func TestReconnectAcrossACrash(t *testing.T) {
	for _, point := range []string{"stage.reconnect.dialled", "stage.reconnect.adopted"} {
		t.Run(point, func(t *testing.T) {
			r := newRig(t, false)
			req := r.ext4(1)
			r.must(r.svc.Stage(t.Context(), req))
			if !r.crashing(point, 1, func(ctx context.Context) error {
				r.Store.Kill()
				r.Store.Start()
				<-ctx.Done()
				return nil
			}) {
				t.Fatal("the point was not reached")
			}
			r.forgetEvents()
			r.restart()
			r.until("one session", func() bool { return r.alive(imageID(1)) && r.Kernel.Linked() })
			r.Store.Kill()
			r.Store.Start()
			r.until("one session again", func() bool { return r.alive(imageID(1)) && r.Kernel.Linked() })
		})
	}
}

// The clock was set back by a day while the volume was not staged, and no record tells.
func TestClockSetBack(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	ahead := uint64(time.Now().Add(24 * time.Hour).UnixNano())
	f, _, err := r.Store.Dial(ctx, nbd.Target{}, fmt.Sprintf("pub/%s/%d/%s/%d", imageID(1), req.Ticket.Epoch, req.Ticket.Token, ahead))
	r.must(err)
	r.must(f.Close())
	r.must(r.svc.Stage(ctx, req))
}

// tcpFinder finds the store at a TCP address, where keys have limits.
type tcpFinder struct{ *stagetest.Store }

func (f tcpFinder) Find(ctx context.Context, pool, uuid string) (stage.Connection, error) {
	c, err := f.Store.Find(ctx, pool, uuid)
	c.Targets = []nbd.Target{{Network: "tcp", Address: "127.0.0.1:10809"}}
	return c, err
}

// Connections are replaced before their key has served too long.
func TestRenewal(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	r.close()
	r.tune = func(c *stage.Config) {
		c.KeyLimit = 1000 * mib
		c.Finder = tcpFinder{r.Store}
	}
	r.open()
	req, quiet := r.ext4(1), r.ext4(2)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Stage(ctx, quiet))
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	for n := 1; n <= 3; n++ {
		r.forgetEvents()
		r.Kernel.Move(devices[0].Index, 1000*mib)
		r.await(stage.LinkRenewed, req.Volume)
	}
	if n := r.count(stage.LinkLost); n > 0 {
		t.Errorf("%d links were lost by it", n)
	}
	if r.count(stage.LinkRenewed) != 1 || !r.alive(imageID(1)) || !r.alive(imageID(2)) {
		t.Errorf("events %v", r.kinds())
	}
	// What was moved is not forgotten by a restart.
	r.Kernel.Move(devices[0].Index, 600*mib)
	r.restart()
	r.forgetEvents()
	r.Kernel.Move(devices[0].Index, 600*mib)
	r.await(stage.LinkRenewed, req.Volume)
}

// Two hundred devices resume at once, and one that cannot does not hold them up.
func TestManyResume(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	r, ctx := newRig(t, false), t.Context()
	const many = 200
	reqs := make([]stage.Request, many)
	for i := range reqs {
		reqs[i] = r.request(r.image(i, mib, nil), store.AccessWrite, stage.Capability{Block: true})
		r.must(r.svc.Stage(ctx, reqs[i]))
	}
	r.Store.Kill()
	for _, req := range reqs {
		r.await(stage.LinkLost, req.Volume)
	}
	began := time.Now()
	r.Store.Start()
	for _, req := range reqs {
		r.await(stage.LinkBack, req.Volume)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d devices resumed in %v; heap %d KiB, %d goroutines", many, time.Since(began), m.HeapAlloc>>10, runtime.NumGoroutine())
	for _, req := range reqs {
		r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	}
	r.clean("at the end")
}

// An unpublished device, fenced, ends; a device being unstaged is not reconnected.
func TestNoReconnectAfterUnstage(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.Store.Kill()
	r.await(stage.LinkLost, req.Volume)
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path)) // the fake device has nothing to flush
	r.Store.Start()
	r.clean("after Unstage")
	r.must(r.svc.Stage(ctx, req))
	if n := r.Store.Sessions(imageID(1)); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
