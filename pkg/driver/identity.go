package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Name is the driver's name in Kubernetes.
const Name = "csi.strata.dev"

// IdentityConfig says what the process is.
type IdentityConfig struct {
	// Version of the program.
	Version string
	// Controller: the process, or another one of the driver, serves the controller.
	Controller bool
	// Ready tells whether the process can answer other calls; nil means always. It is
	// about the process itself: a store that is away is told of per volume.
	Ready func() bool
}

// Identity is the identity service.
type Identity struct {
	csi.UnimplementedIdentityServer
	cfg IdentityConfig
}

// NewIdentity makes the service.
func NewIdentity(cfg IdentityConfig) *Identity { return &Identity{cfg: cfg} }

// GetPluginInfo implements csi.IdentityServer.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: i.cfg.Version}, nil
}

// GetPluginCapabilities implements csi.IdentityServer.
func (i *Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	r := &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
			Type: csi.PluginCapability_VolumeExpansion_ONLINE,
		}},
	}}}
	service := func(t csi.PluginCapability_Service_Type) {
		r.Capabilities = append(r.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}},
		})
	}
	if i.cfg.Controller {
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE)
	}
	// Volumes have no constraints; it is how a CO learns that the controller wants to be
	// told which node it has chosen.
	service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	return r, nil
}

// Probe implements csi.IdentityServer.
func (i *Identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(i.cfg.Ready == nil || i.cfg.Ready())}, nil
}
