package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// TopologyKey is the one key of the driver's topology: the node. Every node reaches every
// volume, so no volume is bound to a segment. The key is there for the way back: with it
// the CO tells CreateVolume which node it has chosen for the pod.
const TopologyKey = "topology.csi.strata.dev/node"

// segmentValue is what CSI, and Kubernetes for labels, take as a value.
var segmentValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)

// segment is a node's value of the key: its name, unless that is too long for one.
func segment(node string) string {
	if segmentValue.MatchString(node) {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return "node-" + hex.EncodeToString(sum[:16])
}

// topologyOf is where a node is.
func topologyOf(node string) *csi.Topology {
	return &csi.Topology{Segments: map[string]string{TopologyKey: segment(node)}}
}

// How far a store is from where a volume is wanted.
const (
	chosen = iota // on the node that comes first in the preferred topologies
	named         // on another one that the request names
	other
)

// distance reads where a volume is wanted; nil if the request does not say. The first
// preferred topology is the node that the scheduler has chosen. What follows it and the
// requisite ones are, as the provisioner is set up, either nothing, or all nodes, or those
// to which a class restricts the volume: stores there come before others, and among each
// other they are equal. Nothing of it is a condition: a volume that is made elsewhere is
// accessible from there all the same.
func distance(r *csi.TopologyRequirement) func(node string) int {
	first := ""
	wanted := make(map[string]bool)
	for i, t := range slices.Concat(r.GetPreferred(), r.GetRequisite()) {
		value := valueOf(t)
		if value == "" {
			continue
		}
		wanted[value] = true
		if i == 0 && len(r.GetPreferred()) > 0 {
			first = value
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return func(node string) int {
		switch value := segment(node); {
		case node == "":
			return other
		case value == first:
			return chosen
		case wanted[value]:
			return named
		}
		return other
	}
}

// valueOf is what a topology says of the node, "" if it does not. Keys are equal whatever
// their case.
func valueOf(t *csi.Topology) string {
	for key, value := range t.GetSegments() {
		if strings.EqualFold(key, TopologyKey) {
			return value
		}
	}
	return ""
}
