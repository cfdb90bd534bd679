package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/stage"
)

// NodeConfig says which node it is.
type NodeConfig struct {
	// ID is the node's name, as it is registered at the stores.
	ID string
}

// Node is the node service.
type Node struct {
	csi.UnimplementedNodeServer
	cfg   NodeConfig
	stage *stage.Service
}

// NewNode makes the service, over use-cases that the caller closes.
func NewNode(cfg NodeConfig, s *stage.Service) *Node { return &Node{cfg: cfg, stage: s} }

// NodeGetInfo implements csi.NodeServer.
func (n *Node) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	most, err := n.stage.MaxVolumes(ctx)
	if err != nil {
		return nil, toStatus("get node info", err)
	}
	return &csi.NodeGetInfoResponse{
		NodeId: n.cfg.ID, MaxVolumesPerNode: most, AccessibleTopology: topologyOf(n.cfg.ID),
	}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := new(csi.NodeGetCapabilitiesResponse)
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return r, nil
}

// nodeCapability translates how a volume is going to be used.
func nodeCapability(c *csi.VolumeCapability) (stage.Capability, error) {
	if c == nil {
		return stage.Capability{}, missing("volume_capability")
	}
	out := stage.Capability{}
	switch c.GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return out, missing("volume_capability.access_mode")
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		out.ReadOnly = true
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		out.Exclusive = true
	}
	switch {
	case c.GetBlock() != nil:
		out.Block = true
	case c.GetMount() != nil:
		out.FS, out.Flags = c.GetMount().GetFsType(), c.GetMount().GetMountFlags()
	default:
		return out, missing("volume_capability.access_type")
	}
	return out, nil
}
