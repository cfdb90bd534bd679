//go:build ceph

package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
	"github.com/strata-csi/strata/test/ceph/cluster"
)

const (
	// stride is how much of an image lies between two notes of a copy's progress.
	stride = 256 << 20
	// acrossSize is that of what is copied, and acrossData how much of each stride is data.
	acrossSize = 4 * stride
	acrossData = 48 << 20
	// slack is what a copy may take beyond its data: objects that are begun, and maps.
	slack = 16 << 20
)

// across is a controller over two pools, one embedded and called here, one of the cluster
// and called fast.
type across struct {
	*rig
	here, fast, ctl *gateway
	apis            map[string]*storeapi.Client
	csi             csi.ControllerClient
}

func newAcross(t *testing.T) *across {
	a := &across{rig: newRig(t, cluster.MemStore), apis: map[string]*storeapi.Client{}}
	a.here, a.fast = a.newProcess("here"), a.newGateway("gw")
	a.here.args = []string{"store", "--data", a.here.dir, "--allow-unsafe"}
	pools, socket := filepath.Join(a.c.Dir(), "both.yaml"), filepath.Join(a.c.Dir(), "csi.sock")
	own, err := os.ReadFile(a.pools)
	a.must(err)
	text := strings.Replace(string(own), "/unused", a.fast.dir, 1) + "  - {name: here, local: " + a.here.dir + "}\n"
	a.must(os.WriteFile(pools, []byte(text), 0o600))
	a.ctl = a.newProcess("controller", "controller", "--pools", pools, "--endpoint", "unix://"+socket, "-v", "2")
	a.apis["here"], a.apis["fast"] = a.here.start("--init"), a.fast.start("--init")
	a.ctl.begin()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	a.must(err)
	t.Cleanup(func() { _ = conn.Close() })
	a.csi = csi.NewControllerClient(conn)
	return a
}

// request asks for a volume in a pool, made from a snapshot if there is one.
func request(name, pool, snapshot string, size int64) *csi.CreateVolumeRequest {
	r := &csi.CreateVolumeRequest{
		Name: name, Parameters: map[string]string{"pool": pool}, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	}
	if snapshot != "" {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}}
	}
	return r
}

// create repeats a request as a provisioner does.
func (a *across) create(r *csi.CreateVolumeRequest) *csi.Volume {
	a.Helper()
	var v *csi.Volume
	a.until(5*time.Minute, "volume "+r.GetName(), func(ctx context.Context) error {
		answer, err := a.csi.CreateVolume(ctx, r)
		v = answer.GetVolume()
		if code := status.Code(err); err != nil && code != codes.Aborted && code != codes.Unavailable {
			a.Fatalf("volume %s: %v", r.GetName(), err)
		}
		return err
	})
	return v
}

func (a *across) snapshot(name string, v *csi.Volume) string {
	a.Helper()
	answer, err := a.csi.CreateSnapshot(a.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.GetVolumeId()})
	a.must(err)
	return answer.GetSnapshot().GetSnapshotId()
}

// done is how far the copy of a volume is by its note, in bytes; -1 without one.
func (a *across) done(pool, name string) (done int64) {
	done = -1
	_ = a.apis[pool].Notes(a.Context(), "copy/"+name, func(_, text string) error { // a store that was killed has none
		var r struct {
			Done int64 `json:"done"`
		}
		err := json.Unmarshal([]byte(text), &r)
		done = r.Done
		return err
	})
	return done
}

// reaches repeats a request until its copy has noted that much and is not at its end, and
// meanwhile makes another volume: a copy is in nobody's way.
func (a *across) reaches(r *csi.CreateVolumeRequest, least int64) {
	a.Helper()
	pool := r.GetParameters()["pool"]
	a.until(5*time.Minute, fmt.Sprintf("the copy %s has come to %d bytes", r.GetName(), least), func(ctx context.Context) error {
		_, err := a.csi.CreateVolume(ctx, r)
		if err == nil {
			a.Fatalf("the copy %s was complete before it could be interrupted", r.GetName())
		}
		if code := status.Code(err); code != codes.Aborted && code != codes.Unavailable {
			a.Fatalf("the copy %s: %v", r.GetName(), err)
		}
		if at := a.done(pool, r.GetName()); at < least {
			return fmt.Errorf("it has come to %d: %w", at, err)
		}
		return nil
	})
	for _, p := range []string{"here", "fast"} {
		_, err := a.csi.CreateVolume(a.Context(), request(fmt.Sprintf("beside-%s-%s-%d", r.GetName(), p, least), p, "", 1<<20))
		a.must(err)
	}
}

// restarted ends processes as a crash would and starts them again.
func (a *across) restarted(list ...*gateway) {
	a.Helper()
	for _, g := range list {
		g.kill()
	}
	for _, g := range list {
		g.begin()
	}
	for name, g := range map[string]*gateway{"here": a.here, "fast": a.fast} {
		a.apis[name] = g.api()
	}
}

// digest reads a whole image.
func (a *across) digest(pool, name string) string {
	a.Helper()
	i, err := a.apis[pool].Lookup(a.Context(), name)
	a.must(err)
	dev, err := a.apis[pool].Open(a.Context(), i.ID)
	a.must(err)
	sum, buf := sha256.New(), make([]byte, 4<<20)
	for at := int64(0); at < i.Size; at += int64(len(buf)) {
		n, err := dev.ReadAt(buf[:min(int64(len(buf)), i.Size-at)], at)
		a.must(err)
		sum.Write(buf[:n])
	}
	a.must(dev.Close())
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// fill writes some data into each stride of an image.
func (a *across) fill(pool, name string, rng *rand.Rand) {
	a.Helper()
	i, err := a.apis[pool].Lookup(a.Context(), name)
	a.must(err)
	dev, err := a.apis[pool].Open(a.Context(), i.ID)
	a.must(err)
	buf := make([]byte, 4<<20)
	for at := int64(0); at < i.Size; at += stride {
		for off := int64(0); off < acrossData; off += int64(len(buf)) {
			for n := 0; n < len(buf); n += 8 {
				*(*[8]byte)(buf[n:]) = [8]byte(bytes.Repeat([]byte{byte(rng.Uint32()) | 1}, 8))
			}
			_, err := dev.WriteAt(buf, at+stride/2+off)
			a.must(err)
		}
	}
	a.must(errors.Join(dev.Flush(), dev.Close()))
}

// resumed requires that a copy was taken up where a note said, not from its beginning.
func (a *across) resumed(name string, least int64) {
	a.Helper()
	log, err := os.ReadFile(a.ctl.log)
	a.must(err)
	at := int64(-1)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `event="copy started"`) && strings.Contains(line, `image="`+name+`"`) {
			_, rest, _ := strings.Cut(line, "bytes=")
			_, err := fmt.Sscan(rest, &at)
			a.must(err)
		}
	}
	if at < least {
		a.Errorf("the copy %s was last started at %d, want %d at least", name, at, least)
	}
}

// own is what an image takes by itself.
func (a *across) own(pool, name string) int64 {
	a.Helper()
	i, err := a.apis[pool].Lookup(a.Context(), name)
	a.must(err)
	u, err := a.apis[pool].Usage(a.Context(), i.ID)
	a.must(err)
	return u.Own
}

// TestAcrossBackends: a volume goes from the embedded engine to the cluster and back by
// requests like any other. The controller and both stores are killed on the way.
func TestAcrossBackends(t *testing.T) {
	a := newAcross(t)
	rng := a.random()
	src := a.create(request("src", "here", "", acrossSize))
	a.fill("here", "src", rng)
	want := a.digest("here", "src")

	up := request("up", "fast", a.snapshot("one", src), acrossSize)
	a.reaches(up, stride)
	a.restarted(a.ctl)
	a.reaches(up, 2*stride)
	a.restarted(a.fast)
	there := a.create(up)
	a.resumed("up", stride)
	if got := a.digest("fast", "up"); got != want {
		t.Error("in the cluster it shows other bytes")
	}
	i, err := a.apis["fast"].Lookup(t.Context(), "up")
	a.must(err)
	if used := a.used(t.Context(), i.ID); used > 4*acrossData+slack || i.Format == store.FormatNone {
		t.Errorf("of %d bytes of data the copy takes %d, it is %+v", 4*acrossData, used, i)
	}
	t.Logf("%d of %d bytes were copied to the cluster", a.own("fast", "up"), i.Size)

	down := request("down", "here", a.snapshot("two", there), acrossSize)
	a.reaches(down, stride)
	a.restarted(a.ctl, a.fast)
	a.reaches(down, 2*stride)
	a.restarted(a.here)
	a.create(down)
	a.resumed("down", stride)
	if got := a.digest("here", "down"); got != want {
		t.Error("back from the cluster it shows other bytes")
	}
	if used := a.own("here", "down"); used > 4*acrossData+slack {
		t.Errorf("of %d bytes of data the copy takes %d", 4*acrossData, used)
	}
	t.Logf("%d of %d bytes were copied back", a.own("here", "down"), int64(acrossSize))
}

// TestAcrossWithoutSource: when the snapshot is deleted on the way, the request ends with
// NOT_FOUND and leaves nothing behind.
func TestAcrossWithoutSource(t *testing.T) {
	a := newAcross(t)
	src := a.create(request("src", "here", "", acrossSize))
	a.fill("here", "src", a.random())
	snap := a.snapshot("one", src)
	lost := request("lost", "fast", snap, acrossSize)
	a.reaches(lost, stride)
	drop := func(ctx context.Context) error {
		_, err := a.csi.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap})
		return err
	}
	if err := drop(t.Context()); err != nil && status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Aborted {
		t.Errorf("deleting a snapshot that is being read answers %v", err)
	}
	a.restarted(a.ctl)
	a.until(time.Minute, "the snapshot is deleted", drop)
	a.until(time.Minute, "the request ends", func(ctx context.Context) error {
		_, err := a.csi.CreateVolume(ctx, lost)
		if status.Code(err) == codes.NotFound {
			return nil
		}
		return fmt.Errorf("it answers %w", err)
	})
	if _, err := a.apis["fast"].Lookup(t.Context(), "lost"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of the copy there is left: %v", err)
	}
	if at := a.done("fast", "lost"); at >= 0 {
		t.Errorf("there is still a note of a copy, at %d", at)
	}
}
