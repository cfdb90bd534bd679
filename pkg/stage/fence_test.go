package stage_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

func TestFenced(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req, other := r.ext4(1), r.ext4(2)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Stage(ctx, other))
	r.must(r.Store.Unpublish(ctx, imageID(1), "")) // as a force-detach does
	r.await(stage.Fenced, req.Volume)
	h, err := r.svc.Health(req.Volume)
	r.must(err)
	if h.Fenced == "" {
		t.Error("not said to be fenced")
	}
	_, err = r.svc.Expand(ctx, req.Volume, req.Path, 0)
	wantErr(t, err, store.ErrFenced, "withdrawn")
	dials := r.Store.Dials()
	r.restart()
	if h, _ = r.svc.Health(req.Volume); h.Fenced == "" {
		t.Error("fencing was forgotten")
	}
	if n := r.Store.Dials(); n > dials {
		t.Errorf("%d more attempts to connect", n-dials)
	}
	if !r.alive(imageID(2)) {
		t.Error("the other volume has lost its link")
	}
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.must(r.svc.Unstage(ctx, other.Volume, other.Path))
	r.clean("at the end")
}

// A store that an operator has given up will not come back, so nobody waits for it.
func TestStoreGivenUpFences(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	mapped, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(r.image(2, 16*mib, nil)).Name})
	r.must(err)
	r.Store.Kill()
	r.await(stage.LinkRetry, req.Volume)
	r.Store.Fail.Set(func(op string) error {
		if op != "Find" {
			return nil
		}
		return fmt.Errorf("the store was given up: %w: %w", store.ErrFenced, store.ErrUnavailable)
	})
	for _, id := range []string{req.Volume, mapped.Volume} {
		r.await(stage.Fenced, id)
		h, err := r.svc.Health(id)
		r.must(err)
		if !strings.Contains(h.Fenced, "was given up") {
			t.Errorf("%+v", h)
		}
	}
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.must(r.svc.Unmap(ctx, mapped.Device))
	r.clean("at the end")
}

// A crash between the record and the device's end must not leave the device waiting.
func TestFencedAcrossACrash(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.block(1)
	r.must(r.svc.Stage(ctx, req))
	if !r.crashing("stage.fence.recorded", 1, func(ctx context.Context) error {
		r.must(r.Store.Unpublish(context.WithoutCancel(ctx), imageID(1), ""))
		<-ctx.Done()
		return nil
	}) {
		t.Fatal("the point was not reached")
	}
	r.restart()
	r.until("the device is ended", func() bool { d, _ := r.Kernel.Devices(ctx); return len(d) == 0 })
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.clean("at the end")
}

// Another store answers at the address, and knows nothing. That is no fencing.
func TestAnotherStoreDoesNotFence(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.Store.Kill()
	r.Store.Become("an-empty-store")
	r.Store.Start()
	r.until("told of the other store", func() bool {
		h, err := r.svc.Health(req.Volume)
		return err == nil && strings.Contains(h.Problem, "store an-empty-store answers in its place")
	})
	r.Store.Become(stagetest.StoreID)
	r.await(stage.LinkBack, req.Volume)
	if r.count(stage.Fenced) > 0 {
		t.Errorf("fenced: %v", r.kinds())
	}
}
