package scenario

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

// follow is the class whose volumes are on the store of the node that their first pod
// was placed on.
const follow = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-follow}
provisioner: csi.strata.dev
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
`

const setManifest = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: app}
spec:
  serviceName: app
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 2
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 600}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 600}
      containers:
      - name: main
        image: %s
        imagePullPolicy: Never
        command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`

// appOn makes a volume on the store of the second node and an application that has it
// mounted on the first; it returns the checksum of the flushed data in it.
func (s *space) appOn(node, storeNode string) string {
	s.t.Helper()
	s.claim(claim{name: "data", class: "e2e-follow"})
	s.pod(pod{name: "first", node: storeNode, claims: []string{"data"}, script: fmt.Sprintf(fill, "data")})
	want := must(s, "data written on "+storeNode, func() (string, error) { return s.finished("first") })
	s.step("that pod gone", func() error { return s.ended("first") })
	s.apply(fmt.Sprintf(setManifest, node, cluster.WorkloadImage))
	s.step("application runs on "+node, func() error { return s.appRuns(node) })
	return want
}

// appRuns waits until the application runs on a node.
func (s *space) appRuns(node string) error {
	return cluster.Wait(s.ctx, "application on "+node, 10*time.Minute, func(ctx context.Context) (bool, error) {
		p, err := up.Client.CoreV1().Pods(s.name).Get(ctx, "app-0", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return p.Spec.NodeName == node && p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil,
			fmt.Errorf("it is %s on %s, deleted: %v", p.Status.Phase, p.Spec.NodeName, p.DeletionTimestamp)
	})
}

func (s *space) appHas(want string) {
	s.t.Helper()
	got := must(s, "its data read", func() (string, error) { return s.exec("app-0", fmt.Sprintf(sum, "data")) })
	if got != want {
		s.t.Errorf("application has checksum %s, want %s", got, want)
	}
}

// ready waits until a node is ready, or is not.
func (s *space) ready(node string, want bool) error {
	return cluster.Wait(s.ctx, fmt.Sprintf("node %s ready: %t", node, want), 5*time.Minute, func(ctx context.Context) (bool, error) {
		n, err := up.Client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return (c.Status == corev1.ConditionTrue) == want, fmt.Errorf("ready is %s", c.Status)
			}
		}
		return false, nil
	})
}

// A node with a store and an application is drained: the application moves, and volumes
// whose images are on the drained node's store are served on.
func TestDrain(t *testing.T) {
	classes(t, follow)
	s := newSpace(t, "drain")
	want := s.appOn(workers[0], workers[0])
	t.Cleanup(func() { _, _ = kubectl(s.ctx, "", "uncordon", workers[0]) })
	s.step("node "+workers[0]+" drained", func() error {
		_, err := kubectl(s.ctx, "", "drain", workers[0], "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m")
		return err
	})
	s.step("application runs on "+workers[1], func() error { return s.appRuns(workers[1]) })
	s.appHas(want)
	s.step("node uncordoned", func() error {
		_, err := kubectl(s.ctx, "", "uncordon", workers[0])
		return err
	})
}

const outOfService = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

// A node dies with a volume mounted. Marked as out of service, its application runs on
// the other node with all flushed data; when it returns, it has nothing of the volume.
func TestNodeDies(t *testing.T) {
	if os.Getenv("STRATA_E2E_ATTACH") != "" {
		t.Skip("another process runs the cluster")
	}
	classes(t, follow)
	s := newSpace(t, "death")
	want := s.appOn(workers[0], workers[1])
	s.step("node switched off, seen as lost", func() error {
		if err := up.PowerOff(workers[0]); err != nil {
			return err
		}
		return s.ready(workers[0], false)
	})
	s.takeOver(want)
	s.step("node switched on, ready", func() error {
		if err := up.PowerOn(workers[0]); err != nil {
			return err
		}
		return s.ready(workers[0], true)
	})
	s.backInService()
}

// takeOver marks the first node as out of service and sees its application on the other.
func (s *space) takeOver(want string) {
	s.t.Helper()
	s.step("node marked as out of service", func() error {
		_, err := kubectl(s.ctx, "", "taint", "node", workers[0], outOfService)
		return err
	})
	s.step("application runs on "+workers[1], func() error { return s.appRuns(workers[1]) })
	s.appHas(want)
}

// backInService takes the mark away and sees the first node without devices.
func (s *space) backInService() {
	s.t.Helper()
	s.step("node in service, without devices", func() error {
		if _, err := kubectl(s.ctx, "", "taint", "node", workers[0], outOfService+"-"); err != nil {
			return err
		}
		return cluster.Wait(s.ctx, "devices of "+workers[0]+" to go", 5*time.Minute, func(ctx context.Context) (bool, error) {
			out, err := up.OnNode(ctx, workers[0], "for d in /sys/block/nbd*; do [ -e $d/pid ] && echo $d; done; grep /csi/ /proc/mounts; true")
			return err == nil && strings.TrimSpace(out) == "", fmt.Errorf("there are: %s %v", out, err)
		})
	})
	for _, component := range []string{"store", "node"} {
		s.step("strata's "+component+" is ready on "+workers[0], func() error {
			_, err := kubectl(s.ctx, "", "-n", namespace, "rollout", "status", "ds/strata-"+component, "--timeout=5m")
			return err
		})
	}
}

// A node is cut off and runs on. Its application is moved; the one left behind can never
// write to the volume again, and the node cleans up when it is back.
func TestNodeIsCutOff(t *testing.T) {
	classes(t, follow)
	s := newSpace(t, "cut")
	want := s.appOn(workers[0], workers[1])
	// The one left behind writes on and on.
	if _, err := s.exec("app-0", "(while :; do date >>/data/stale; sync; sleep 1; done) >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	s.step("node cut off, seen as lost", func() error {
		if err := up.Cut(s.ctx, workers[0]); err != nil {
			return err
		}
		return s.ready(workers[0], false)
	})
	t.Cleanup(func() { _ = up.Mend(s.ctx, workers[0]) })
	s.takeOver(want)
	before := must(s, "what the other wrote last", func() (string, error) { return s.exec("app-0", "sha256sum </data/stale") })
	s.step("node on the network again, ready", func() error {
		if err := up.Mend(s.ctx, workers[0]); err != nil {
			return err
		}
		return s.ready(workers[0], true)
	})
	s.backInService()
	after := must(s, "the same after its return", func() (string, error) {
		return s.exec("app-0", "sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </data/stale")
	})
	if before != after {
		t.Errorf("a file changed under a node that has the volume alone: %s, then %s", before, after)
	}
	s.appHas(want)
}
