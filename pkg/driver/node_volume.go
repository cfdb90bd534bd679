package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/stage"
)

// nodeNeeds checks that required fields, given as name and value, are set.
func nodeNeeds(fields ...string) error {
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] == "" {
			return missing(fields[i])
		}
	}
	return nil
}

// nodePath checks a path of a request: it must be absolute, and is cleaned.
func nodePath(field, path string) (string, error) {
	if path == "" {
		return "", missing(field)
	}
	if !filepath.IsAbs(path) {
		return "", invalid("%s %q is not absolute", field, path)
	}
	return filepath.Clean(path), nil
}

// NodeStageVolume implements csi.NodeServer.
func (n *Node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	req, err := nodeStageRequest(r)
	if err != nil {
		return nil, toStatus("stage", err)
	}
	if err := n.stage.Stage(ctx, req); err != nil {
		return nil, toStatus("node", err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func nodeStageRequest(r *csi.NodeStageVolumeRequest) (stage.Request, error) {
	if err := nodeNeeds("volume_id", r.GetVolumeId()); err != nil {
		return stage.Request{}, err
	}
	path, err := nodePath("staging_target_path", r.GetStagingTargetPath())
	if err != nil {
		return stage.Request{}, err
	}
	c, err := nodeCapability(r.GetVolumeCapability())
	if err != nil {
		return stage.Request{}, err
	}
	if len(r.GetPublishContext()) == 0 {
		return stage.Request{}, fmt.Errorf("volume %s has no publish_context; it was not published to this node: %w", r.GetVolumeId(), stage.ErrState)
	}
	t, err := readTicket(r.GetPublishContext())
	if err != nil {
		return stage.Request{}, err
	}
	return stage.Request{
		Volume: r.GetVolumeId(), Ticket: stage.Ticket(t), Path: path, Capability: c,
		Sourced: r.GetVolumeContext()[contextSource] != "",
	}, nil
}

// NodeUnstageVolume implements csi.NodeServer.
func (n *Node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	err := nodeNeeds("volume_id", r.GetVolumeId())
	path, bad := nodePath("staging_target_path", r.GetStagingTargetPath())
	if err == nil {
		err = bad
	}
	if err == nil {
		err = n.stage.Unstage(ctx, r.GetVolumeId(), path)
	}
	if err != nil {
		return nil, toStatus("node", err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume implements csi.NodeServer.
func (n *Node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	req, err := nodePublishRequest(r)
	if err == nil {
		err = n.stage.Publish(ctx, req)
	}
	if err != nil {
		return nil, toStatus("node", err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func nodePublishRequest(r *csi.NodePublishVolumeRequest) (stage.PublishRequest, error) {
	if err := nodeNeeds("volume_id", r.GetVolumeId()); err != nil {
		return stage.PublishRequest{}, err
	}
	target, err := nodePath("target_path", r.GetTargetPath())
	if err != nil {
		return stage.PublishRequest{}, err
	}
	c, err := nodeCapability(r.GetVolumeCapability())
	if err != nil {
		return stage.PublishRequest{}, err
	}
	if r.GetStagingTargetPath() == "" {
		return stage.PublishRequest{}, fmt.Errorf("volume %s has no staging_target_path; it must be staged first: %w", r.GetVolumeId(), stage.ErrState)
	}
	staging, err := nodePath("staging_target_path", r.GetStagingTargetPath())
	if err != nil {
		return stage.PublishRequest{}, err
	}
	return stage.PublishRequest{
		Volume: r.GetVolumeId(), Staging: staging, Capability: c,
		Target: stage.Target{Path: target, ReadOnly: r.GetReadonly() || c.ReadOnly, Flags: c.Flags},
	}, nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (n *Node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	err := nodeNeeds("volume_id", r.GetVolumeId())
	target, bad := nodePath("target_path", r.GetTargetPath())
	if err == nil {
		err = bad
	}
	if err == nil {
		err = n.stage.Unpublish(ctx, r.GetVolumeId(), target)
	}
	if err != nil {
		return nil, toStatus("node", err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements csi.NodeServer.
func (n *Node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := nodeNeeds("volume_id", r.GetVolumeId(), "volume_path", r.GetVolumePath()); err != nil {
		return nil, toStatus("get volume stats", err)
	}
	s, err := n.stage.Stats(ctx, r.GetVolumeId(), r.GetVolumePath())
	if err != nil {
		return nil, toStatus("node", err)
	}
	usage := []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: s.Total, Used: s.Used, Available: s.Available}}
	if !s.Block {
		usage = append(usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: s.Inodes, Used: s.InodesUsed, Available: s.InodesFree})
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

// NodeExpandVolume implements csi.NodeServer.
func (n *Node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if err := nodeNeeds("volume_id", r.GetVolumeId(), "volume_path", r.GetVolumePath()); err != nil {
		return nil, toStatus("expand volume", err)
	}
	need, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes()
	if need < 0 || limit < 0 || limit > 0 && need > limit {
		return nil, toStatus("expand volume", invalid("capacity_range %d to %d", need, limit))
	}
	size, err := n.stage.Expand(ctx, r.GetVolumeId(), r.GetVolumePath(), need)
	if err != nil {
		return nil, toStatus("node", err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// NodeGetVolumeHealth implements csi.NodeServer. It asks nothing that could hang.
func (n *Node) NodeGetVolumeHealth(_ context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if err := nodeNeeds("volume_id", r.GetVolumeId()); err != nil {
		return nil, toStatus("get volume health", err)
	}
	h, err := n.stage.Health(r.GetVolumeId())
	if err != nil {
		return nil, toStatus("node", err)
	}
	out := &csi.VolumeHealth{VolumeId: r.GetVolumeId()}
	add := func(kind csi.VolumeHealthErrorType, reason, message string) {
		out.HealthStatuses = append(out.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{Status: kind, Reason: reason, Message: message})
	}
	switch {
	case h.Fenced != "":
		add(csi.VolumeHealthErrorType_INACCESSIBLE, "Fenced",
			"This node has lost the right to the volume, and its I/O fails. Delete the pod, so that the volume is mounted again: "+h.Fenced)
	case !h.Lost.IsZero():
		add(csi.VolumeHealthErrorType_INACCESSIBLE, "StoreUnreachable",
			fmt.Sprintf("I/O waits since %s for the store to come back: %s", h.Lost.UTC().Format(time.RFC3339), h.Problem))
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: out}, nil
}
