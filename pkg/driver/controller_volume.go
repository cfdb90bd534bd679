package driver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/volume"
)

// CreateVolume implements csi.ControllerServer. The content source is echoed: without it
// the provisioner takes the volume for a mistake and deletes it. The answer names no
// topology: the volume is accessible from every node, also if the one it was wanted for
// has no store, or a full one.
func (c *Controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	const op = "create volume"
	req, err := createRequest(r)
	if err != nil {
		return nil, toStatus(op, err)
	}
	v, err := c.volumes.Create(ctx, req)
	if err != nil {
		return nil, toStatus(op, err)
	}
	answer := volumeOf(v)
	answer.ContentSource = r.GetVolumeContentSource()
	switch {
	case req.Snapshot != "":
		answer.VolumeContext = map[string]string{contextSource: "snapshot"}
	case req.Volume != "":
		answer.VolumeContext = map[string]string{contextSource: "volume"}
	}
	return &csi.CreateVolumeResponse{Volume: answer}, nil
}

// createRequest checks and translates a request.
func createRequest(r *csi.CreateVolumeRequest) (volume.CreateRequest, error) {
	if err := validateName(r.GetName()); err != nil {
		return volume.CreateRequest{}, err
	}
	if err := validateCapabilities(r.GetVolumeCapabilities()); err != nil {
		return volume.CreateRequest{}, err
	}
	p, err := readParameters(r.GetParameters(), r.GetMutableParameters())
	if err != nil {
		return volume.CreateRequest{}, err
	}
	req := volume.CreateRequest{
		Name: r.GetName(), Pool: p.pool, CloneMode: p.cloneMode, BlockSize: p.blockSize, Tuning: p.tuning,
		Required: r.GetCapacityRange().GetRequiredBytes(), Limit: r.GetCapacityRange().GetLimitBytes(),
		Use: usesOf(r.GetVolumeCapabilities()), ReadOnly: onlyReads(r.GetVolumeCapabilities()),
		Distance: distance(r.GetAccessibilityRequirements()),
	}
	switch source := r.GetVolumeContentSource(); {
	case source == nil:
	case source.GetSnapshot() != nil:
		if req.Snapshot = source.GetSnapshot().GetSnapshotId(); req.Snapshot == "" {
			return req, missing("volume_content_source.snapshot.snapshot_id")
		}
	case source.GetVolume() != nil:
		if req.Volume = source.GetVolume().GetVolumeId(); req.Volume == "" {
			return req, missing("volume_content_source.volume.volume_id")
		}
	default:
		return req, missing("volume_content_source.type")
	}
	return req, nil
}

// DeleteVolume implements csi.ControllerServer.
func (c *Controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	const op = "delete volume"
	if r.GetVolumeId() == "" {
		return nil, toStatus(op, missing("volume_id"))
	}
	if err := c.volumes.Delete(ctx, r.GetVolumeId()); err != nil {
		return nil, toStatus(op, err)
	}
	return new(csi.DeleteVolumeResponse), nil
}

// ControllerPublishVolume implements csi.ControllerServer. The publish context holds the
// secret of the publication.
func (c *Controller) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	const op = "publish volume"
	switch {
	case r.GetVolumeId() == "":
		return nil, toStatus(op, missing("volume_id"))
	case r.GetNodeId() == "":
		return nil, toStatus(op, missing("node_id"))
	}
	if err := validateCapability(r.GetVolumeCapability()); err != nil {
		return nil, toStatus(op, err)
	}
	p, err := c.volumes.Publish(ctx, volume.PublishRequest{
		Volume: r.GetVolumeId(), Node: r.GetNodeId(),
		Access: accessFor(r.GetVolumeCapability(), r.GetReadonly()),
		Use:    fmt.Sprintf("%s readonly=%t", useOf(r.GetVolumeCapability()), r.GetReadonly()),
	})
	if err != nil {
		return nil, toStatus(op, err)
	}
	t := ticket{Pool: p.Pool, Store: p.Store, Image: p.Target, Epoch: p.Epoch, Token: p.Token, Access: p.Access}
	return &csi.ControllerPublishVolumeResponse{PublishContext: t.context()}, nil
}

// ControllerUnpublishVolume implements csi.ControllerServer. When it succeeds the node
// cannot write any more, whether it has been asked or is dead.
func (c *Controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	const op = "unpublish volume"
	if r.GetVolumeId() == "" {
		return nil, toStatus(op, missing("volume_id"))
	}
	if err := c.volumes.Unpublish(ctx, r.GetVolumeId(), r.GetNodeId()); err != nil {
		return nil, toStatus(op, err)
	}
	return new(csi.ControllerUnpublishVolumeResponse), nil
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (c *Controller) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	const op = "validate volume capabilities"
	switch {
	case r.GetVolumeId() == "":
		return nil, toStatus(op, missing("volume_id"))
	case len(r.GetVolumeCapabilities()) == 0:
		return nil, toStatus(op, missing("volume_capabilities"))
	}
	if _, err := c.volumes.Get(ctx, r.GetVolumeId()); err != nil {
		return nil, toStatus(op, err)
	}
	err := validateCapabilities(r.GetVolumeCapabilities())
	if err == nil {
		_, err = readParameters(r.GetParameters(), r.GetMutableParameters())
	}
	if err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters: r.GetParameters(), MutableParameters: r.GetMutableParameters(),
	}}, nil
}

// ControllerExpandVolume implements csi.ControllerServer. The node has to tell the kernel
// the size of a device that exists, so only a raw block volume that is nowhere needs none.
func (c *Controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	const op = "expand volume"
	switch {
	case r.GetVolumeId() == "":
		return nil, toStatus(op, missing("volume_id"))
	case r.GetCapacityRange() == nil:
		return nil, toStatus(op, missing("capacity_range"))
	}
	if r.GetVolumeCapability() != nil {
		if err := validateCapability(r.GetVolumeCapability()); err != nil {
			return nil, toStatus(op, err)
		}
	}
	v, err := c.volumes.Expand(ctx, r.GetVolumeId(), r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return nil, toStatus(op, err)
	}
	block := r.GetVolumeCapability().GetBlock() != nil
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes: v.Info.Size, NodeExpansionRequired: !block || len(v.Nodes) > 0,
	}, nil
}

// ControllerModifyVolume implements csi.ControllerServer.
func (c *Controller) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	const op = "modify volume"
	if r.GetVolumeId() == "" {
		return nil, toStatus(op, missing("volume_id"))
	}
	tuning, err := readMutable(r.GetMutableParameters())
	if err != nil {
		return nil, toStatus(op, err)
	}
	if err := c.volumes.Modify(ctx, r.GetVolumeId(), tuning); err != nil {
		return nil, toStatus(op, err)
	}
	return new(csi.ControllerModifyVolumeResponse), nil
}
