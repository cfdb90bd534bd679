package stage_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

// ended is where a program is killed as soon as it starts.
type ended struct {
	utilexec.Interface
	program string
}

func (e ended) CommandContext(ctx context.Context, program string, args ...string) utilexec.Cmd {
	if program == e.program {
		return e.Interface.CommandContext(ctx, "sh", "-c", "kill -9 $$")
	}
	return e.Interface.CommandContext(ctx, program, args...)
}

// A check that was killed, for want of memory for instance, has found no damage.
func TestKilledCheckIsNoDamage(t *testing.T) {
	r := newRig(t, false)
	r.close()
	r.tune = func(c *stage.Config) { c.Exec = ended{r.Exec, "fsck.ext4"} }
	r.open()
	err := r.svc.Stage(t.Context(), r.ext4(1))
	if err == nil || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("told: %v", err)
	}
	wantErr(t, err, err, "fsck.ext4")
	r.clean("after the failure")
}

// What somebody has put into the staging path of a volume that is gone is no reason to
// leave all others without their links.
func TestStartWithAFullStagingPath(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req, other := r.block(1), r.ext4(2)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Stage(ctx, other))
	r.close()
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	r.must(r.Kernel.Disconnect(ctx, devices[0]))
	r.must(os.WriteFile(filepath.Join(req.Path, "file"), nil, 0o600))
	r.open()
	if e := r.await(stage.Dropped, req.Volume); e.Err == nil {
		t.Error("nothing is told of the directory that was left")
	}
	r.Store.Kill()
	r.Store.Start()
	r.await(stage.LinkBack, other.Volume)
}

// A volume of the CO that is published, and not yet staged, keeps its publication.
func TestMapLeavesPublicationsOfOthers(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	ref := stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(imageID(1)).Name}
	_, err := r.svc.Map(ctx, ref)
	wantErr(t, err, store.ErrInUse, "published to this node already")
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))

	// The right of a mapping was withdrawn, and the volume was given one since.
	r.must(r.Store.Unpublish(ctx, imageID(1), ""))
	m, err := r.svc.Map(ctx, ref)
	r.must(err)
	r.must(r.Store.Unpublish(ctx, imageID(1), ""))
	r.await(stage.Fenced, m.Volume)
	req.Ticket, err = r.Ticket(ctx, imageID(1), store.AccessWrite)
	r.must(err)
	r.must(r.svc.Unmap(ctx, m.Device))
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.clean("at the end")
}

// A caller that has gone reads nothing of what goes on without it; the race detector sees
// it otherwise.
func TestMapOutlivesItsCaller(t *testing.T) {
	r := newRig(t, false)
	id := r.image(1, 16*mib, nil)
	ctx, cancel := context.WithCancel(t.Context())
	free := make(chan struct{})
	r.Kernel.Fail.Set(func(op string) error {
		if op == "Connect" {
			cancel()
			<-free
		}
		return nil
	})
	v, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(id).Name})
	close(free)
	wantErr(t, err, context.Canceled, "goes on")
	if v.Device != "" {
		t.Errorf("a failed call tells of %+v", v)
	}
	r.until("it is mapped", func() bool {
		v, ok := r.volume("map:" + stagetest.Pool + ":" + string(id))
		return ok && v.Phase == stage.PhaseReady
	})
}

// The process ends between the making of a mapping's device, anew after the host's start,
// and its record: the next one makes no second.
func TestReattachAcrossACrash(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	m, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(r.image(1, 16*mib, nil)).Name})
	r.must(err)
	r.Store.Kill()
	r.close()
	r.must(r.Kernel.Boot())
	r.open()
	if !r.crashing("stage.attach.connected", 1, func(ctx context.Context) error {
		r.Store.Start()
		<-ctx.Done()
		return nil
	}) {
		t.Fatal("the point was not reached")
	}
	r.restart()
	r.await(stage.LinkBack, m.Volume)
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	if v, _ := r.volume(m.Volume); len(devices) != 1 || v.Device != devices[0].Path {
		t.Errorf("devices %v, mapped as %q", devices, v.Device)
	}
	r.must(r.svc.Unmap(ctx, m.Volume))
	r.clean("at the end")
}
