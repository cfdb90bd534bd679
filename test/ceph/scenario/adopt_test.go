//go:build ceph

package scenario

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/store"
)

// TestAdoptedVolume: an image that others have made is taken over by the command, as a user
// with the rights of a gateway only, and by the handle that the command prints it is a
// volume of the controller.
func TestAdoptedVolume(t *testing.T) {
	a := newAcross(t)
	ctx := t.Context()
	want := bytes.Repeat([]byte("golden"), 2<<20)
	file := filepath.Join(a.c.Dir(), "golden")
	a.must(os.WriteFile(file, want, 0o600))
	for _, line := range []string{
		"import --no-progress --image-feature layering " + file + " " + cephPool + "/golden",
		"snap create --no-progress " + cephPool + "/golden@s",
		"clone --rbd-default-clone-format 2 --image-feature layering " + cephPool + "/golden@s " + cephPool + "/csi-vol-1",
	} {
		_, err := a.c.Rbd(ctx, strings.Fields(line)...)
		a.must(err)
	}
	out := a.command(a.fast, "import", "--adopt", cephPool+"/csi-vol-1", "data")
	if !strings.Contains(out, "golden@s") || !strings.Contains(out, "strata flatten data") {
		t.Errorf("the command does not say that others have a part of it: %s", out)
	}
	a.create(request("any", "fast", "", 1<<20)) // so that the controller has met the store
	handle := strings.TrimSpace(a.command(a.fast, "handle", "data"))

	caps := request("", "", "", 0).GetVolumeCapabilities()
	valid, err := a.csi.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: handle, VolumeCapabilities: caps})
	if err != nil || valid.GetConfirmed() == nil {
		t.Errorf("the volume %s is no volume: %v, %v", handle, valid, err)
	}
	a.must(a.apis["fast"].SwapNote(ctx, "node/n", "", `{"maxVolumes":8}`))
	_, err = a.csi.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: handle, NodeId: "n", VolumeCapability: caps[0]})
	a.must(err)
	_, err = a.csi.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: handle, NodeId: "n"})
	a.must(err)
	snap := a.snapshot("snap", &csi.Volume{VolumeId: handle})
	restored := request("restored", "fast", snap, int64(len(want)))
	a.create(restored)
	i, err := a.apis["fast"].Lookup(ctx, "restored")
	a.must(err)
	if i.Depth != 2 || !bytes.Equal(a.exported(ctx, inCluster(i.ID)), want) {
		t.Errorf("what was restored from it is %+v, or shows other bytes", i)
	}
	_, err = a.csi.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap})
	a.must(err)
	_, err = a.csi.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: handle})
	a.must(err)
	if _, err := a.apis["fast"].Lookup(ctx, "data"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after it was deleted there is %v", err)
	}
	if !bytes.Equal(a.exported(ctx, inCluster(i.ID)), want) || !bytes.Equal(a.exported(ctx, cephPool+"/golden"), want) {
		t.Error("after it was deleted, what is above or below it shows other bytes")
	}
}

// command runs strata against a store, and returns all that it says.
func (r *rig) command(g *gateway, args ...string) string {
	r.Helper()
	cmd := exec.CommandContext(r.Context(), os.Getenv("STRATA_CEPH_BIN"), append([]string{"--store", g.dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("strata %v: %v: %s", args, err, out)
	}
	return string(out)
}
