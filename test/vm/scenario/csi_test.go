//go:build kernelnbd

package scenario

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// patience is how long a sidecar would go on asking before a user looks.
const patience = 2 * time.Minute

// call does one RPC the way sidecars do: what may succeed later is asked again, other
// errors are final. Each attempt is bounded as theirs are.
func call[Q, R any](t *testing.T, rpc func(context.Context, Q) (R, error), req Q) R {
	t.Helper()
	reply, err := attempt(t.Context(), patience, rpc, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return reply
}

func attempt[Q, R any](ctx context.Context, bound time.Duration, rpc func(context.Context, Q) (R, error), req Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		one, stop := context.WithTimeout(ctx, 30*time.Second)
		reply, err := rpc(one, req)
		stop()
		if !later(err) {
			return reply, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return reply, err
		}
	}
}

// later tells errors that another attempt may cure.
func later(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded:
		return true
	}
	return false
}

// volume is what a PersistentVolume keeps of one.
type volume struct {
	*csi.Volume
	capability *csi.VolumeCapability
	published  map[string]map[string]string // node → publish context
}

// fsVolume is a capability for a file system on one node.
func fsVolume(fs string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// rawVolume is a capability for a raw device on one node.
func rawVolume() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

func (c *cluster) rpc() csi.ControllerClient { return csi.NewControllerClient(c.controller.conn) }

func (c *cluster) node(name string) csi.NodeClient { return csi.NewNodeClient(c.nodes[name].conn) }

// create makes a volume; source may be nil.
func (c *cluster) create(name string, size int64, capability *csi.VolumeCapability, source *csi.VolumeContentSource, parameters map[string]string) *volume {
	c.t.Helper()
	r := call(c.t, drop(c.rpc().CreateVolume), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{capability}, VolumeContentSource: source, Parameters: parameters,
	})
	return &volume{Volume: r.GetVolume(), capability: capability, published: map[string]map[string]string{}}
}

func (c *cluster) remove(v *volume) {
	c.t.Helper()
	call(c.t, drop(c.rpc().DeleteVolume), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
}

func (c *cluster) snapshot(v *volume, name string) string {
	c.t.Helper()
	r := call(c.t, drop(c.rpc().CreateSnapshot), &csi.CreateSnapshotRequest{SourceVolumeId: v.GetVolumeId(), Name: name})
	return r.GetSnapshot().GetSnapshotId()
}

func (c *cluster) removeSnapshot(id string) {
	c.t.Helper()
	call(c.t, drop(c.rpc().DeleteSnapshot), &csi.DeleteSnapshotRequest{SnapshotId: id})
}

// attach publishes a volume to a node and keeps the context for staging.
func (c *cluster) attach(v *volume, node string) {
	c.t.Helper()
	id := call(c.t, drop(c.node(node).NodeGetInfo), &csi.NodeGetInfoRequest{}).GetNodeId()
	r := call(c.t, drop(c.rpc().ControllerPublishVolume), &csi.ControllerPublishVolumeRequest{
		VolumeId: v.GetVolumeId(), NodeId: id, VolumeCapability: v.capability, VolumeContext: v.GetVolumeContext(),
	})
	v.published[node] = r.GetPublishContext()
}

func (c *cluster) detach(v *volume, node string) {
	c.t.Helper()
	call(c.t, drop(c.rpc().ControllerUnpublishVolume), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.GetVolumeId(), NodeId: node})
	delete(v.published, node)
}

// staging and target are paths as a kubelet would use them.
func (c *cluster) staging(v *volume, node string) string {
	return filepath.Join(c.dir, "kubelet-"+node, "staging", imageOf(v))
}

func (c *cluster) target(v *volume, node string) string {
	return filepath.Join(c.dir, "kubelet-"+node, "pods", imageOf(v))
}

func (c *cluster) stageRequest(v *volume, node string) *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{
		VolumeId: v.GetVolumeId(), PublishContext: v.published[node], StagingTargetPath: c.staging(v, node),
		VolumeCapability: v.capability, VolumeContext: v.GetVolumeContext(),
	}
}

func (c *cluster) publishRequest(v *volume, node string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.GetVolumeId(), PublishContext: v.published[node], StagingTargetPath: c.staging(v, node),
		TargetPath: c.target(v, node), VolumeCapability: v.capability, VolumeContext: v.GetVolumeContext(),
	}
}

func (c *cluster) unstageRequest(v *volume, node string) *csi.NodeUnstageVolumeRequest {
	return &csi.NodeUnstageVolumeRequest{VolumeId: v.GetVolumeId(), StagingTargetPath: c.staging(v, node)}
}

// up brings a volume to a node, all the way a pod's does, and returns its path there.
func (c *cluster) up(v *volume, node string) string {
	c.t.Helper()
	c.attach(v, node)
	c.mkdir(c.staging(v, node))
	call(c.t, drop(c.node(node).NodeStageVolume), c.stageRequest(v, node))
	c.mkdir(filepath.Dir(c.target(v, node)))
	call(c.t, drop(c.node(node).NodePublishVolume), c.publishRequest(v, node))
	return c.target(v, node)
}

// down takes it all back.
func (c *cluster) down(v *volume, node string) {
	c.t.Helper()
	c.leave(v, node)
	c.detach(v, node)
}

// leave takes a volume from a node and leaves it published to it.
func (c *cluster) leave(v *volume, node string) {
	c.t.Helper()
	call(c.t, drop(c.node(node).NodeUnpublishVolume), &csi.NodeUnpublishVolumeRequest{VolumeId: v.GetVolumeId(), TargetPath: c.target(v, node)})
	call(c.t, drop(c.node(node).NodeUnstageVolume), c.unstageRequest(v, node))
}

// drop turns a client's method into a plain function.
func drop[Q, R any](rpc func(context.Context, Q, ...grpc.CallOption) (R, error)) func(context.Context, Q) (R, error) {
	return func(ctx context.Context, req Q) (R, error) { return rpc(ctx, req) }
}
