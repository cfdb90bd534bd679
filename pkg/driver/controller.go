package driver

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// Controller serves the CSI controller's RPCs. Handlers translate; what happens is in
// pkg/volume. Safe for concurrent use.
type Controller struct {
	csi.UnimplementedControllerServer
	volumes *volume.Service
}

// NewController makes the controller service over the use-cases.
func NewController(volumes *volume.Service) *Controller { return &Controller{volumes: volumes} }

// controllerCapabilities is what the controller can do.
var controllerCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
	csi.ControllerServiceCapability_RPC_GET_VOLUME,
	csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
	csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
	csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
}

// ControllerGetCapabilities implements csi.ControllerServer.
func (c *Controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := new(csi.ControllerGetCapabilitiesResponse)
	for _, t := range controllerCapabilities {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// GetCapacity implements csi.ControllerServer. The maximum volume size is what can be
// filled: volumes are thin, and larger ones are made when asked for. The topology of the
// request does not change the answer, because a pod on any node can have its volume on any
// store. So a provisioner that publishes capacities (--enable-capacity) publishes the same
// for every node, and a scheduler that goes by them (storageCapacity of the CSIDriver)
// refuses thin volumes that are larger than what the emptiest store has free now; the
// chart does neither.
func (c *Controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	const op = "get capacity"
	p, err := readParameters(r.GetParameters(), nil)
	if err != nil {
		return nil, toStatus(op, err)
	}
	if len(r.GetVolumeCapabilities()) > 0 && validateCapabilities(r.GetVolumeCapabilities()) != nil {
		return &csi.GetCapacityResponse{MaximumVolumeSize: wrapperspb.Int64(0)}, nil
	}
	room, err := c.volumes.Capacity(ctx, p.pool)
	if err != nil {
		return nil, toStatus(op, err)
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: room.Free,
		MaximumVolumeSize: wrapperspb.Int64(room.Largest),
		MinimumVolumeSize: wrapperspb.Int64(store.Block),
	}, nil
}

// ListVolumes implements csi.ControllerServer.
func (c *Controller) ListVolumes(ctx context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	list, next, err := c.volumes.List(ctx, volume.Page{Max: int(r.GetMaxEntries()), Token: r.GetStartingToken()})
	if err != nil {
		return nil, toStatus("list volumes", err)
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range list {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{
			Volume: volumeOf(v), Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: v.Nodes},
		})
	}
	return resp, nil
}

// ControllerGetVolume implements csi.ControllerServer.
func (c *Controller) ControllerGetVolume(ctx context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	const op = "get volume"
	if r.GetVolumeId() == "" {
		return nil, toStatus(op, missing("volume_id"))
	}
	v, err := c.volumes.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, toStatus(op, err)
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: volumeOf(v), Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: v.Nodes},
	}, nil
}

func volumeOf(v volume.Volume) *csi.Volume {
	return &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Info.Size}
}

// CreateSnapshot implements csi.ControllerServer.
func (c *Controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	const op = "create snapshot"
	if err := validateName(r.GetName()); err != nil {
		return nil, toStatus(op, err)
	}
	if r.GetSourceVolumeId() == "" {
		return nil, toStatus(op, missing("source_volume_id"))
	}
	if err := new(parameters).read(r.GetParameters(), nil); err != nil {
		return nil, toStatus(op, err)
	}
	s, err := c.volumes.CreateSnapshot(ctx, r.GetName(), r.GetSourceVolumeId())
	if err != nil {
		return nil, toStatus(op, err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshotOf(s)}, nil
}

// DeleteSnapshot implements csi.ControllerServer.
func (c *Controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	const op = "delete snapshot"
	if r.GetSnapshotId() == "" {
		return nil, toStatus(op, missing("snapshot_id"))
	}
	if err := c.volumes.DeleteSnapshot(ctx, r.GetSnapshotId()); err != nil {
		return nil, toStatus(op, err)
	}
	return new(csi.DeleteSnapshotResponse), nil
}

// GetSnapshot implements csi.ControllerServer.
func (c *Controller) GetSnapshot(ctx context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	const op = "get snapshot"
	if r.GetSnapshotId() == "" {
		return nil, toStatus(op, missing("snapshot_id"))
	}
	s, err := c.volumes.GetSnapshot(ctx, r.GetSnapshotId())
	if err != nil {
		return nil, toStatus(op, err)
	}
	return &csi.GetSnapshotResponse{Snapshot: snapshotOf(s)}, nil
}

// ListSnapshots implements csi.ControllerServer.
func (c *Controller) ListSnapshots(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	const op = "list snapshots"
	page := volume.Page{Max: int(r.GetMaxEntries()), Token: r.GetStartingToken()}
	list, next, err := c.snapshots(ctx, r, page)
	if err != nil {
		return nil, toStatus(op, err)
	}
	resp := &csi.ListSnapshotsResponse{NextToken: next}
	for _, s := range list {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshotOf(s)})
	}
	return resp, nil
}

// snapshots lists what the request asks for; ids that name nothing make an empty list.
func (c *Controller) snapshots(ctx context.Context, r *csi.ListSnapshotsRequest, page volume.Page) ([]volume.Snapshot, string, error) {
	if r.GetMaxEntries() < 0 {
		return nil, "", invalid("max_entries is %d", r.GetMaxEntries())
	}
	if r.GetSnapshotId() == "" {
		return c.volumes.ListSnapshots(ctx, r.GetSourceVolumeId(), page)
	}
	s, err := c.volumes.GetSnapshot(ctx, r.GetSnapshotId())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, "", nil
	case err != nil:
		return nil, "", err
	case r.GetSourceVolumeId() != "" && !volume.Same(r.GetSourceVolumeId(), s.Volume):
		return nil, "", nil
	}
	return []volume.Snapshot{s}, "", nil
}

// snapshotOf describes a snapshot. It can be used from the moment it exists.
func snapshotOf(s volume.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Volume, SizeBytes: s.Info.Size,
		CreationTime: timestamppb.New(s.Info.Created), ReadyToUse: true,
	}
}
