package stage_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
)

func TestLifeOfAFileSystem(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	for range 3 { // each call is repeated as a CO may
		r.must(r.svc.Stage(ctx, req))
	}
	if f := r.Store.Info(imageID(1)).Format; f != "ext4" {
		t.Errorf("format %q after the first stage", f)
	}
	pub := r.publish(req, "a/mount")
	for range 3 {
		r.must(r.svc.Publish(ctx, pub))
	}
	second := r.publish(req, "b/mount")
	second.Target.ReadOnly = true
	r.must(r.svc.Publish(ctx, second))
	if n := r.mountsAt(pub.Target.Path); n != 1 {
		t.Errorf("%d mounts at the target", n)
	}
	wantErr(t, r.svc.Unstage(ctx, req.Volume, req.Path), stage.ErrState, "still published at")
	for range 3 {
		r.must(r.svc.Unpublish(ctx, req.Volume, pub.Target.Path))
		r.must(r.svc.Unpublish(ctx, req.Volume, second.Target.Path))
	}
	if _, err := os.Lstat(pub.Target.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is still there: %v", err)
	}
	for range 3 {
		r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	}
	r.clean("at the end")
	if _, err := os.Lstat(req.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the staging path, which was made here, is still there: %v", err)
	}
	r.must(r.svc.Stage(ctx, req))
	if n := r.formats(); n != 1 {
		t.Errorf("mkfs ran %d times", n)
	}
}

func (r *rig) mountsAt(path string) int {
	r.t.Helper()
	list, err := r.Mounter.List()
	r.must(err)
	n := 0
	for _, m := range list {
		if m.Path == path {
			n++
		}
	}
	return n
}

func TestLifeOfARawDevice(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.block(1)
	r.must(os.MkdirAll(req.Path, 0o700)) // the CO's, so it stays
	r.must(r.svc.Stage(ctx, req))
	if f := r.Store.Info(imageID(1)).Format; f != store.FormatUnknown {
		t.Errorf("format %q of an image that was handed out raw", f)
	}
	pub := r.publish(req, "a/block")
	r.must(r.svc.Publish(ctx, pub))
	r.must(r.svc.Publish(ctx, pub))
	if info, err := os.Stat(pub.Target.Path); err != nil || info.IsDir() {
		t.Errorf("the target of a raw device must be a file: %v", err)
	}
	v, _ := r.volume(req.Volume)
	list, err := r.Mounter.List()
	r.must(err)
	if len(list) != 1 || list[0].Device != v.Device {
		t.Errorf("mounts %v, want the device's node %s", list, v.Device)
	}
	st, err := r.svc.Stats(ctx, req.Volume, pub.Target.Path)
	r.must(err)
	if !st.Block || st.Total != 16*mib || st.Used != 0 {
		t.Errorf("stats %+v", st)
	}
	r.must(r.svc.Unpublish(ctx, req.Volume, pub.Target.Path))
	r.must(r.svc.Unstage(ctx, req.Volume, req.Path))
	r.clean("at the end")
	if _, err := os.Stat(req.Path); err != nil {
		t.Errorf("the CO's staging path: %v", err)
	}
	if r.formats() != 0 {
		t.Error("a raw device was formatted")
	}
}

func TestStageAnswers(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	bad := req
	bad.Capability.FS = "btrfs"
	wantErr(t, r.svc.Stage(ctx, bad), store.ErrInvalid, "use ext4, ext3 or xfs")
	bad = req
	bad.Ticket.Token = ""
	wantErr(t, r.svc.Stage(ctx, bad), stage.ErrState, "not published to this node")
	bad = req
	bad.Ticket.Access = store.AccessShared
	wantErr(t, r.svc.Stage(ctx, bad), store.ErrInvalid, "use a raw block volume")
	bad = req
	bad.Ticket.Token = strings.Repeat("0", 32)
	r.Store.Local = true
	err := r.svc.Stage(ctx, bad)
	wantErr(t, err, store.ErrFenced, "was withdrawn")
	if strings.Contains(err.Error(), bad.Ticket.Token) {
		t.Errorf("the token is in %v", err)
	}
	bad = req
	bad.Ticket.Image = imageID(77)
	wantErr(t, r.svc.Stage(ctx, bad), store.ErrNotFound, "ask store")
	r.Store.Become("another")
	wantErr(t, r.svc.Stage(ctx, req), store.ErrUnavailable, "store another answers in its place")
	r.Store.Become(stagetest.StoreID)
	r.Store.Kill()
	wantErr(t, r.svc.Stage(ctx, req), store.ErrUnavailable, "the store is down")
	r.Store.Start()
	r.clean("after refusals")

	r.must(r.svc.Stage(ctx, req))
	other := req
	other.Capability.Flags = []string{"noatime"}
	wantErr(t, r.svc.Stage(ctx, other), store.ErrConflict, "another capability")
	other = req
	other.Path += "-elsewhere"
	wantErr(t, r.svc.Stage(ctx, other), store.ErrConflict, "is staged at")

	twin := req
	twin.Volume = "v1:twin"
	twin.Path += "-twin"
	wantErr(t, r.svc.Stage(ctx, twin), store.ErrInUse, "as volume "+req.Volume)
	if r.Store.Sessions(imageID(1)) != 1 {
		t.Error("the twin has cut the connection")
	}
}

func TestPublishAnswers(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.request(r.image(1, 16*mib, nil), store.AccessWrite, stage.Capability{Exclusive: true})
	pub := r.publish(req, "a")
	wantErr(t, r.svc.Publish(ctx, pub), stage.ErrState, "not staged")
	r.must(r.svc.Stage(ctx, req))
	bad := pub
	bad.Staging = ""
	wantErr(t, r.svc.Publish(ctx, bad), stage.ErrState, "it is staged at")
	bad = pub
	bad.Capability.Block = true
	wantErr(t, r.svc.Publish(ctx, bad), store.ErrInvalid, "raw block")
	r.must(r.svc.Publish(ctx, pub))
	bad = pub
	bad.Target.ReadOnly = true
	wantErr(t, r.svc.Publish(ctx, bad), store.ErrConflict, "in another way")
	wantErr(t, r.svc.Publish(ctx, r.publish(req, "b")), store.ErrInUse, "once only")
	if _, err := os.Lstat(filepath.Join(r.Dir, "pods", "b")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the refused target was made")
	}
	r.must(r.svc.Unpublish(ctx, req.Volume, pub.Target.Path))
	r.must(r.svc.Publish(ctx, r.publish(req, "b")))
}

func TestStatsAndExpandAnswers(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	_, err := r.svc.Stats(ctx, req.Volume, req.Path)
	wantErr(t, err, store.ErrNotFound, "not at")
	_, err = r.svc.Expand(ctx, req.Volume, req.Path, 0)
	wantErr(t, err, store.ErrNotFound, "not at")
	r.must(r.svc.Stage(ctx, req))
	st, err := r.svc.Stats(ctx, req.Volume, req.Path)
	r.must(err)
	if st.Block || st.Total <= 0 || st.Inodes <= 0 {
		t.Errorf("stats %+v", st)
	}
	_, err = r.svc.Stats(ctx, req.Volume, r.Dir)
	wantErr(t, err, store.ErrNotFound, "not at")
	_, err = r.svc.Expand(ctx, req.Volume, req.Path, 32*mib)
	wantErr(t, err, store.ErrUnavailable, "are needed")
	r.must(r.Store.Grow(imageID(1), 32*mib))
	for range 2 {
		n, err := r.svc.Expand(ctx, req.Volume, req.Path, 32*mib)
		r.must(err)
		if n != 32*mib {
			t.Errorf("expanded to %d", n)
		}
	}
	devices, err := r.Kernel.Devices(ctx)
	r.must(err)
	if devices[0].Size != 32*mib {
		t.Errorf("the device has %d bytes", devices[0].Size)
	}
	if ran := r.Exec.Ran(); ran[len(ran)-1] != "resize2fs "+devices[0].Path {
		t.Errorf("last program: %s", ran[len(ran)-1])
	}
}

// An operation that hangs holds its volume, and only that, past the caller's time.
func TestOperationOutlivesItsCaller(t *testing.T) {
	r := newRig(t, false)
	req, other := r.ext4(1), r.ext4(2)
	free, entered := make(chan struct{}), make(chan struct{})
	r.Mounter.Fail.Set(func(op string) error {
		if op == "mount" {
			r.Mounter.Fail.Set(nil)
			close(entered)
			<-free
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- r.svc.Stage(ctx, req) }()
	<-entered
	wantErr(t, r.svc.Stage(t.Context(), req), store.ErrBusy, "being mounted")
	r.must(r.svc.Stage(t.Context(), other))
	cancel()
	wantErr(t, <-first, context.Canceled, "still being mounted, which goes on")
	wantErr(t, r.svc.Unstage(t.Context(), req.Volume, req.Path), store.ErrBusy, "being mounted")
	close(free)
	r.until("the volume is ready", func() bool { v, _ := r.volume(req.Volume); return v.Phase == stage.PhaseReady })
	r.until("the volume is free", func() bool { return !errors.Is(r.svc.Stage(t.Context(), req), store.ErrBusy) })
	if r.formats() != 2 {
		t.Errorf("mkfs ran %d times for two volumes", r.formats())
	}
}

// A volume that is published anew, after it was fenced here, is staged anew.
func TestStageAfterRepublication(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	pub := r.publish(req, "a")
	r.must(r.svc.Publish(ctx, pub))
	r.must(r.Store.Unpublish(ctx, imageID(1), ""))
	r.await(stage.Fenced, req.Volume)
	wantErr(t, r.svc.Stage(ctx, req), store.ErrFenced, "was withdrawn")
	wantErr(t, r.svc.Publish(ctx, r.publish(req, "b")), store.ErrFenced, "was withdrawn")
	again := req
	ticket, err := r.Ticket(ctx, imageID(1), store.AccessWrite)
	r.must(err)
	again.Ticket = ticket
	wantErr(t, r.svc.Stage(ctx, again), stage.ErrState, "unpublish that first")
	r.must(r.svc.Unpublish(ctx, req.Volume, pub.Target.Path))
	r.must(r.svc.Stage(ctx, again))
	h, err := r.svc.Health(req.Volume)
	r.must(err)
	if h.Fenced != "" || !h.Lost.IsZero() {
		t.Errorf("health %+v after a new publication", h)
	}
}

func TestMap(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	id := r.image(1, 16*mib, nil)
	ref := r.Store.Info(id).Name
	a, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: ref})
	r.must(err)
	b, err := r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: ref})
	r.must(err)
	if a.Device == "" || a.Device != b.Device || !a.Mapped || a.Ref != ref {
		t.Errorf("mapped twice: %+v, %+v", a, b)
	}
	if f := r.Store.Info(id).Format; f != store.FormatUnknown {
		t.Errorf("format %q of a mapped image", f)
	}
	_, err = r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: ref, ReadOnly: true})
	wantErr(t, err, store.ErrConflict, "another kind of access")
	_, err = r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: "none"})
	wantErr(t, err, store.ErrNotFound, "none")
	wantErr(t, r.svc.Unmap(ctx, "none"), store.ErrNotFound, "nothing of that name")
	r.must(r.svc.Unmap(ctx, a.Device))
	r.clean("after unmap")
	if pubs, _ := r.Store.Publications(ctx, id); len(pubs) != 0 {
		t.Errorf("publications %v after unmap", pubs)
	}
	// Below a staged volume, a second device would cut off the first.
	req := r.ext4(2)
	r.must(r.svc.Stage(ctx, req))
	_, err = r.svc.Map(ctx, stage.MapRequest{Pool: stagetest.Pool, Ref: r.Store.Info(imageID(2)).Name})
	wantErr(t, err, store.ErrInUse, req.Volume)
	if pubs, _ := r.Store.Publications(ctx, imageID(2)); len(pubs) != 1 {
		t.Error("the volume's publication was withdrawn")
	}
}

// A staging path that has lost its mount is not handed out: the pod would write into the
// host's directory. Staging again puts it right.
func TestStagingMountLost(t *testing.T) {
	r, ctx := newRig(t, false), t.Context()
	req := r.ext4(1)
	r.must(r.svc.Stage(ctx, req))
	r.must(r.Mounter.Unmount(req.Path))
	wantErr(t, r.svc.Publish(ctx, r.publish(req, "a")), stage.ErrState, "stage it again")
	if _, err := os.Lstat(filepath.Join(r.Dir, "pods", "a")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the target was made")
	}
	r.must(r.svc.Stage(ctx, req))
	r.must(r.svc.Publish(ctx, r.publish(req, "a")))
}
