package driver

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// TestSegment: a node's value is its name as far as that is a value, and differs for nodes
// that differ.
func TestSegment(t *testing.T) {
	long := strings.Repeat("a", 64)
	for node, same := range map[string]bool{
		"n1": true, "ip-10-0-0-1.eu.compute.internal": true, "a": true, "A_b": true, long[:63]: true,
		"": false, long: false, long + "b": false, "-n": false, "n.": false, "n 1": false, "n\n": false,
	} {
		value := segment(node)
		if (value == node) != same || !segmentValue.MatchString(value) {
			t.Errorf("%q: %q", node, value)
		}
	}
	if segment(long) == segment(long+"b") {
		t.Error("long names are not told apart")
	}
}

// topologies name nodes, in other words than ours where the text has a '='.
func topologies(texts ...string) (all []*csi.Topology) {
	for _, text := range texts {
		key, node, ok := strings.Cut(text, "=")
		if !ok {
			key, node = TopologyKey, segment(text)
		}
		all = append(all, &csi.Topology{Segments: map[string]string{key: node}})
	}
	return all
}

func TestDistance(t *testing.T) {
	long := strings.Repeat("n", 70)
	for _, r := range []*csi.TopologyRequirement{
		nil, {}, {Preferred: []*csi.Topology{nil, {}}}, {Requisite: topologies("zone=z1"), Preferred: topologies("zone=z1")},
	} {
		if distance(r) != nil {
			t.Errorf("%v asks for a place", r)
		}
	}
	for _, c := range []struct {
		name                 string
		preferred, requisite []*csi.Topology
		want                 map[string]int
	}{
		{"strict", topologies("n1"), topologies("n1"), map[string]int{"n1": chosen, "n2": other, "": other}},
		{"all nodes", topologies("n2", "n3", "n1"), topologies("n1", "n2", "n3"), map[string]int{"n1": named, "n2": chosen, "n3": named, "n4": other}},
		{"restricted", nil, topologies("n1", "n2"), map[string]int{"n1": named, "n2": named, "n3": other, "": other}},
		{"only preferred", topologies("n2"), nil, map[string]int{"n2": chosen, "n1": other}},
		{"another driver's first", topologies("zone=z1", "n1"), nil, map[string]int{"n1": named, "z1": other}},
		{"long", topologies(long), nil, map[string]int{long: chosen, long + "n": other}},
		{"case", topologies("Topology.CSI.strata.dev/NODE=n1"), nil, map[string]int{"n1": chosen, "N1": other}},
	} {
		far := distance(&csi.TopologyRequirement{Preferred: c.preferred, Requisite: c.requisite})
		if far == nil {
			t.Errorf("%s: no place", c.name)
			continue
		}
		for node, want := range c.want {
			if got := far(node); got != want {
				t.Errorf("%s: %q is at %d, want %d", c.name, node, got, want)
			}
		}
	}
}

// TestControllerPlacement: a volume is made on the store of the node that the scheduler has
// chosen; where there is none, that is no error; and it never says that it is bound to a
// place.
func TestControllerPlacement(t *testing.T) {
	r := newControllerRig(t)
	r.net.SetNode("a:1", "n1")
	r.net.SetNode("b:1", "n2")
	at := func(nodes ...string) func(*csi.CreateVolumeRequest) {
		return func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: topologies(nodes...), Preferred: topologies(nodes...)}
		}
	}
	storeOf := func(v *csi.Volume) string {
		if v.GetAccessibleTopology() != nil {
			t.Errorf("%s is bound to %v", v.GetVolumeId(), v.GetAccessibleTopology())
		}
		return v.GetVolumeId()[strings.LastIndex(v.GetVolumeId(), ":"):]
	}
	seen := make(map[string]string)
	for _, node := range []string{"n1", "n2"} {
		for _, name := range []string{"v1", "v2", "v3", "v4", "v5", "v6"} {
			s := storeOf(r.volume(name+node, at(node)))
			if seen[node] != "" && seen[node] != s {
				t.Errorf("volumes for %s are on several stores", node)
			}
			seen[node] = s
		}
	}
	if seen["n1"] == seen["n2"] {
		t.Error("volumes for both nodes are on one store")
	}
	v := r.volume("elsewhere", at("n3"))
	storeOf(v)
	if again := r.volume("elsewhere", at("n1")); again.GetVolumeId() != v.GetVolumeId() {
		t.Error("asked for from another node it is another volume")
	}
	src := r.volume("v1n1", at("n1"))
	if clone := r.volume("clone", fromVolume(src.GetVolumeId()), at("n2")); storeOf(clone) != seen["n1"] {
		t.Error("the clone is not where its source is")
	}
	r.net.SetFull("a:1", true)
	if s := storeOf(r.volume("full", at("n1"))); s != seen["n2"] {
		t.Error("the full store has not been left")
	}
}

// TestCapacityIsOfAllStores: wherever a pod runs, its volume may be on any store.
func TestCapacityIsOfAllStores(t *testing.T) {
	r := newControllerRig(t)
	for addr, node := range map[string]string{"a:1": "n1", "b:1": "n2"} {
		r.net.SetNode(addr, node)
	}
	r.net.SetFree("a:1", 100*mib)
	r.net.SetFree("b:1", 300*mib)
	for _, where := range append(topologies("n1", "n2", "n3"), nil) {
		c, err := r.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: where})
		if err != nil || c.GetAvailableCapacity() != 400*mib || c.GetMaximumVolumeSize().GetValue() != 300*mib {
			t.Errorf("%v: %v, %v", where, c, err)
		}
	}
}
