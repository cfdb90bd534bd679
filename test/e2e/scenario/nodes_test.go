package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

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

// app makes a volume with flushed data in it; it returns the node whose store has it, the
// other one, and the checksum.
func (s *space) app() (home, away, want string) {
	s.t.Helper()
	want = s.write(claim{name: "data"}, "")
	s.step("that pod gone", func() error { return s.ended("write-data") })
	home = must(s, "store of the volume found", func() (string, error) { return s.storeNode("data") })
	for _, n := range workers {
		if n != home {
			away = n
		}
	}
	return home, away, want
}

// storeNode returns the node whose store has the image of a claim.
func (s *space) storeNode(name string) (string, error) {
	c, err := up.Client.CoreV1().PersistentVolumeClaims(s.name).Get(s.ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pv, err := up.Client.CoreV1().PersistentVolumes().Get(s.ctx, c.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	handle := pv.Spec.CSI.VolumeHandle
	store := handle[strings.LastIndex(handle, ":")+1:]
	pods, err := up.Client.CoreV1().Pods(namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=store"})
	if err != nil {
		return "", err
	}
	for _, p := range pods.Items {
		out, err := kubectl(s.ctx, "", "-n", namespace, "exec", p.Name, "--", "strata", "status", "--format", "json")
		if err != nil {
			return "", err
		}
		if strings.Contains(out, store) {
			return p.Spec.NodeName, nil
		}
	}
	return "", fmt.Errorf("no store is %s", store)
}

// appOn starts an application that has the volume mounted on a node.
func (s *space) appOn(node string) {
	s.t.Helper()
	s.apply(fmt.Sprintf(setManifest, node, cluster.WorkloadImage))
	s.step("application runs on "+node, func() error { return s.appRuns(node) })
}

// appRuns waits until the application runs on a node.
func (s *space) appRuns(node string) error {
	return cluster.Wait(s.ctx, "application on "+node, patience, func(ctx context.Context) (bool, error) {
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
	return cluster.Wait(s.ctx, fmt.Sprintf("node %s ready: %t", node, want), patience, func(ctx context.Context) (bool, error) {
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

// A node with a store and an application is drained: the application moves, and the
// volumes of that node's store are served on.
func TestDrain(t *testing.T) {
	s := newSpace(t, "drain")
	home, away, want := s.app()
	s.appOn(home)
	t.Cleanup(func() { _, _ = kubectl(s.ctx, "", "uncordon", home) })
	s.step("node "+home+" drained", func() error {
		_, err := kubectl(s.ctx, "", "drain", home, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout="+patience.String())
		return err
	})
	s.step("application runs on "+away, func() error { return s.appRuns(away) })
	s.appHas(want)
	s.step("node uncordoned", func() error {
		_, err := kubectl(s.ctx, "", "uncordon", home)
		return err
	})
}

const outOfService = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

// A node dies with a volume mounted. Marked as out of service, its application runs on
// the other node with all flushed data; when it returns, it has nothing of the volume.
func TestNodeDies(t *testing.T) {
	s := newSpace(t, "death")
	home, away, want := s.app()
	s.appOn(away)
	s.step("node "+away+" switched off, seen as lost", func() error {
		if err := up.PowerOff(away); err != nil {
			return err
		}
		return s.ready(away, false)
	})
	s.takeOver(away, home, want)
	s.step("node switched on, ready", func() error {
		if err := up.PowerOn(away); err != nil {
			return err
		}
		return s.ready(away, true)
	})
	s.backInService(away)
}

// takeOver marks a lost node as out of service and sees its application on another.
func (s *space) takeOver(lost, other, want string) {
	s.t.Helper()
	s.step("node marked as out of service", func() error {
		_, err := kubectl(s.ctx, "", "taint", "node", lost, outOfService)
		return err
	})
	s.t.Cleanup(func() { _, _ = kubectl(s.ctx, "", "taint", "node", lost, outOfService+"-") })
	s.step("application runs on "+other, func() error { return s.appRuns(other) })
	s.appHas(want)
}

// attached prints the NBD devices of a node that are connected, and its mounts of volumes.
const attached = "for d in /sys/block/nbd*; do [ ! -e $d/pid ] || echo $d; done; grep '[/~]csi/' /proc/mounts; true"

// backInService takes the mark away and sees the node without devices.
func (s *space) backInService(node string) {
	s.t.Helper()
	s.step("node in service, without devices", func() error {
		if _, err := kubectl(s.ctx, "", "taint", "node", node, outOfService+"-"); err != nil {
			return err
		}
		return cluster.Wait(s.ctx, "devices of "+node+" to go", patience, func(ctx context.Context) (bool, error) {
			out, err := up.OnNode(ctx, node, attached)
			return err == nil && strings.TrimSpace(out) == "", fmt.Errorf("there are: %s %v", out, err)
		})
	})
	for _, component := range []string{"store", "node"} {
		s.step("strata's "+component+" is ready on "+node, func() error {
			_, err := kubectl(s.ctx, "", "-n", namespace, "rollout", "status", "ds/strata-"+component, "--timeout="+patience.String())
			return err
		})
	}
}

// A node is cut off and runs on. Its application is moved; the one left behind can never
// write to the volume again, and the node cleans up when it is back.
func TestNodeIsCutOff(t *testing.T) {
	s := newSpace(t, "cut")
	home, away, want := s.app()
	s.appOn(away)
	// The one left behind writes on and on.
	if _, err := s.exec("app-0", "(while :; do date >>/data/stale; sync -f /data/stale; sleep 1; done) >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	s.step("node "+away+" cut off, seen as lost", func() error {
		if err := up.Cut(s.ctx, away); err != nil {
			return err
		}
		return s.ready(away, false)
	})
	t.Cleanup(func() { _ = up.Mend(s.ctx, away) })
	s.takeOver(away, home, want)
	const stale = "sync -f /data; dd if=/data/stale bs=1M iflag=direct 2>/dev/null | sha256sum"
	before := must(s, "what the other wrote last", func() (string, error) { return s.exec("app-0", stale) })
	s.step("node on the network again, ready", func() error {
		if err := up.Mend(s.ctx, away); err != nil {
			return err
		}
		return s.ready(away, true)
	})
	s.backInService(away)
	after := must(s, "the same after its return", func() (string, error) { return s.exec("app-0", stale) })
	if before != after {
		t.Errorf("a file changed under a node that has the volume alone: %s, then %s", before, after)
	}
	s.appHas(want)
}
