package scenario

import "testing"

const waitingClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-waiting}
provisioner: csi.strata.dev
volumeBindingMode: WaitForFirstConsumer
`

// Where the class waits for a pod, the volume is made by the store of the pod's node; it
// can be used on the other one all the same.
func TestVolumeIsMadeWhereItsPodRuns(t *testing.T) {
	classes(t, waitingClass)
	s := newSpace(t, "placement")
	for _, n := range workers {
		s.claim(claim{name: "of-" + n, class: "e2e-waiting"})
		s.pod(pod{name: "on-" + n, node: n, claims: []string{"of-" + n}})
	}
	for _, n := range workers {
		s.step("pod runs on "+n, func() error { return s.running("on-" + n) })
		home := must(s, "store of its volume found", func() (string, error) { return s.storeNode("of-" + n) })
		if home != n {
			t.Errorf("the volume of a pod on %s is on the store of %s", n, home)
		}
	}
	s.step("pod on the first node gone", func() error { return s.ended("on-" + workers[0]) })
	s.pod(pod{name: "moved", node: workers[1], claims: []string{"of-" + workers[0]}})
	s.step("another has its volume on the other node", func() error { return s.running("moved") })
}
