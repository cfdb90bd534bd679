//go:build kernelnbd

package scenario

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func plainCredentials() grpc.DialOption {
	return grpc.WithTransportCredentials(insecure.NewCredentials())
}

// life leads volumes through all RPCs that change something, from their making to their
// end, and checks what they hold. A device is mapped besides, and the store is killed once,
// so that links are made anew.
func life(t *testing.T, c *cluster, x *executioner, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, seed))
	v := c.create("life", 64*mib, fsVolume("ext4"), nil, map[string]string{"softCloneDepth": "1"})
	at := c.up(v, "n1")
	before := writeFile(t, filepath.Join(at, "data"), 2*mib, r)
	snap := c.snapshot(v, "life-snap")
	after := writeFile(t, filepath.Join(at, "data"), 2*mib, r)
	c.mapped(v)
	x.kill(c.stores[0].process)

	restored := c.create("life-restored", 96*mib, fsVolume("ext4"), fromSnapshot(snap), nil)
	clone := c.create("life-clone", 64*mib, rawVolume(), fromVolume(v.GetVolumeId()), map[string]string{"cloneMode": "flatten"})
	beside := c.up(restored, "n1")
	if got := sumFile(t, filepath.Join(beside, "data")); got != before {
		t.Errorf("the restored file is %s; written before the snapshot was %s", got, before)
	}
	if got := capacity(t, beside); got < 80*mib {
		t.Errorf("the restored file system has %d MiB; its volume has 96", got/mib)
	}
	c.modify(v)
	c.expand(v, 128*mib)
	if got := sumFile(t, filepath.Join(at, "data")); got != after {
		t.Errorf("the source's file is %s; written after the snapshot was %s", got, after)
	}
	c.down(restored, "n1")
	c.down(v, "n1")
	c.removeSnapshot(snap)
	for _, v := range []*volume{restored, v, clone} {
		c.remove(v)
	}
}

// modify bounds what a volume may do, by far more than it does here.
func (c *cluster) modify(v *volume) {
	c.t.Helper()
	call(c.t, drop(c.rpc().ControllerModifyVolume), &csi.ControllerModifyVolumeRequest{
		VolumeId: v.GetVolumeId(), MutableParameters: map[string]string{"iops": "1000000"},
	})
}

// expand grows a volume and the file system in it, as resizer and kubelet do.
func (c *cluster) expand(v *volume, size int64) {
	c.t.Helper()
	want := &csi.CapacityRange{RequiredBytes: size}
	call(c.t, drop(c.rpc().ControllerExpandVolume), &csi.ControllerExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), CapacityRange: want, VolumeCapability: v.capability,
	})
	call(c.t, drop(c.node("n1").NodeExpandVolume), &csi.NodeExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), VolumePath: c.target(v, "n1"), StagingTargetPath: c.staging(v, "n1"),
		CapacityRange: want, VolumeCapability: v.capability,
	})
	if got := capacity(c.t, c.target(v, "n1")); got < size*3/4 {
		c.t.Errorf("the file system has %d MiB after growing to %d", got/mib, size/mib)
	}
}

// mapped makes a device of the snapshot of a volume and ends it again, as an operator
// would who has to ask twice when a process was killed.
func (c *cluster) mapped(*volume) {
	c.t.Helper()
	state := filepath.Join(c.dir, "node-n1")
	again := func(what string, args ...string) {
		eventually(c.t, patience, what, func(ctx context.Context) error {
			return quiet(ctx, os.Getenv("STRATA_BIN"), append(args, "--state", state)...)
		})
	}
	again("map", "map", "life@life-snap")
	again("unmap", "unmap", "life@life-snap")
}
