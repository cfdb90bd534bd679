package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/strata-csi/strata/test/e2e/cluster"
)

// patience is for how long a step may wait for a state that it needs: no run is judged by
// its times, and where all processors are emulated a pod may take minutes.
const patience = 10 * time.Minute

// space is a namespace of one test. Whatever fails in it ends the test.
type space struct {
	t       *testing.T
	ctx     context.Context
	name    string
	failure error // of the step that failed
}

// newSpace makes a namespace. At the end of the test it is removed, and with it all
// volumes that were made in it must go.
func newSpace(t *testing.T, name string) *space {
	t.Helper()
	// The test's own context ends before its clean-up; each wait has an end of its own.
	s := &space{t: t, ctx: context.WithoutCancel(t.Context()), name: name}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := up.Client.CoreV1().Namespaces().Create(s.ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.describe()
		}
		if err := rep.Step(t.Name()+": all deleted, no volume left", s.remove); err != nil {
			s.failure = err
			s.describe()
			t.Errorf("remove all: %v", err)
		}
	})
	return s
}

// step runs a step of the test, prints its time, and ends the test when it fails.
func (s *space) step(name string, do func() error) {
	s.t.Helper()
	if err := rep.Step(s.t.Name()+": "+name, do); err != nil {
		s.failure = fmt.Errorf("%s: %w", name, err)
		s.t.Fatal(s.failure)
	}
}

// remove deletes the namespace and waits until its volumes are gone. In a namespace that
// goes, no controller replaces the pods that are deleted.
func (s *space) remove() error {
	if err := up.Client.CoreV1().Namespaces().Delete(s.ctx, s.name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	now := int64(1)
	err := up.Client.CoreV1().Pods(s.name).DeleteCollection(s.ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pods: %w", err)
	}
	return cluster.Wait(s.ctx, "the volumes of "+s.name+" to go", patience, func(ctx context.Context) (bool, error) {
		ns, err := up.Client.CoreV1().Namespaces().Get(ctx, s.name, metav1.GetOptions{})
		if err == nil {
			return false, fmt.Errorf("namespace is there: %s", conditions(ns))
		}
		if !apierrors.IsNotFound(err) {
			return false, err
		}
		list, err := up.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, pv := range list.Items {
			if c := pv.Spec.ClaimRef; c != nil && c.Namespace == s.name {
				return false, fmt.Errorf("volume %s is %s: %s", pv.Name, pv.Status.Phase, pv.Status.Message)
			}
		}
		return true, nil
	})
}

// conditions says what keeps a namespace that is to go.
func conditions(ns *corev1.Namespace) string {
	var all []string
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			all = append(all, c.Message)
		}
	}
	return strings.Join(all, "; ")
}

// apply applies a manifest in the namespace.
func (s *space) apply(manifest string) {
	s.t.Helper()
	if _, err := kubectl(s.ctx, manifest, "-n", s.name, "apply", "-f", "-"); err != nil {
		s.t.Fatalf("apply: %v", err)
	}
}

// classes applies objects that are not in a namespace and removes them after the test.
// It is called before newSpace: some of them stay while volumes use them.
func classes(t *testing.T, manifest string) {
	t.Helper()
	if _, err := kubectl(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("apply: %v", err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := kubectl(ctx, manifest, "delete", "-f", "-", "--ignore-not-found", "--timeout="+patience.String()); err != nil {
			t.Errorf("delete classes: %v", err)
		}
	})
}

// claim describes a claim; the zero value of a field is left to the cluster.
type claim struct {
	name       string
	size       string
	class      string // strata
	attributes string // a VolumeAttributesClass
	mode       string // ReadWriteOnce
	block      bool
	snapshot   string // it starts as this snapshot …
	source     string // … or this claim
}

func (s *space) claim(c claim) {
	s.t.Helper()
	var from string
	switch {
	case c.snapshot != "":
		from = fmt.Sprintf("dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: %s}", c.snapshot)
	case c.source != "":
		from = fmt.Sprintf("dataSource: {kind: PersistentVolumeClaim, name: %s}", c.source)
	}
	attributes := ""
	if c.attributes != "" {
		attributes = "volumeAttributesClassName: " + c.attributes
	}
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: %s
  accessModes: [%s]
  volumeMode: %s
  resources: {requests: {storage: %s}}
  %s
  %s
`, c.name, or(c.class, "strata"), or(c.mode, "ReadWriteOnce"), map[bool]string{true: "Block", false: "Filesystem"}[c.block],
		or(c.size, "1Gi"), from, attributes))
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// bound waits until a claim is bound.
func (s *space) bound(name string) error {
	return cluster.Wait(s.ctx, "claim "+name+" to be bound", patience, func(ctx context.Context) (bool, error) {
		c, err := up.Client.CoreV1().PersistentVolumeClaims(s.name).Get(ctx, name, metav1.GetOptions{})
		return err == nil && c.Status.Phase == corev1.ClaimBound, err
	})
}

// pod describes a pod with one container of the workload image.
type pod struct {
	name   string
	node   string   // where it must run
	script string   // what it does; it sleeps if there is none
	claims []string // NAME is mounted at /NAME, or the device /dev/NAME
	block  bool
	only   bool // read only
}

func (s *space) pod(p pod) {
	s.t.Helper()
	var mounts, volumes strings.Builder
	for _, c := range p.claims {
		if p.block {
			fmt.Fprintf(&mounts, "\n    - {name: %s, devicePath: /dev/%[1]s}", c)
		} else {
			fmt.Fprintf(&mounts, "\n    - {name: %s, mountPath: /%[1]s, readOnly: %t}", c, p.only)
		}
		fmt.Fprintf(&volumes, "\n  - {name: %s, persistentVolumeClaim: {claimName: %[1]s, readOnly: %t}}", c, p.only)
	}
	key := "volumeMounts"
	if p.block {
		key = "volumeDevices"
	}
	node := ""
	if p.node != "" {
		node = "nodeSelector: {kubernetes.io/hostname: " + p.node + "}"
	}
	script := or(p.script, "trap 'exit 0' TERM; sleep 100000 & wait")
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  %s
  containers:
  - name: main
    image: %s
    imagePullPolicy: Never
    command: [sh, -c, %q]
    %s:%s
  volumes:%s
`, p.name, node, cluster.WorkloadImage, script, key, mounts.String(), volumes.String()))
}

// running waits until a pod runs.
func (s *space) running(name string) error { return s.phase(name, corev1.PodRunning) }

// finished waits until a pod has ended well and returns what it wrote.
func (s *space) finished(name string) (string, error) {
	err := s.phase(name, corev1.PodSucceeded)
	log, logErr := s.log(name)
	if err != nil {
		return log, fmt.Errorf("%w; it wrote: %s %w", err, log, logErr)
	}
	return log, logErr
}

func (s *space) phase(name string, wanted corev1.PodPhase) error {
	return cluster.Wait(s.ctx, fmt.Sprintf("pod %s to be %s", name, wanted), patience, func(ctx context.Context) (bool, error) {
		p, err := up.Client.CoreV1().Pods(s.name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if p.Status.Phase == corev1.PodFailed {
			return false, cluster.Final(fmt.Errorf("it failed: %s %s", p.Status.Reason, p.Status.Message))
		}
		return p.Status.Phase == wanted, fmt.Errorf("it is %s on %q", p.Status.Phase, p.Spec.NodeName)
	})
}

func (s *space) log(name string) (string, error) {
	out, err := up.Client.CoreV1().Pods(s.name).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(s.ctx)
	return strings.TrimSpace(string(out)), err
}

// exec runs a script in a pod and returns its output.
func (s *space) exec(name, script string) (string, error) {
	out, err := kubectl(s.ctx, "", "-n", s.name, "exec", name, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// ended deletes a pod and waits until it is gone.
func (s *space) ended(name string) error {
	err := up.Client.CoreV1().Pods(s.name).Delete(s.ctx, name, metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return cluster.Wait(s.ctx, "pod "+name+" to be gone", patience, func(ctx context.Context) (bool, error) {
		_, err := up.Client.CoreV1().Pods(s.name).Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// detached waits until no volume of the namespace is attached to a node.
func (s *space) detached() error {
	return cluster.Wait(s.ctx, "volumes of "+s.name+" to be detached", patience, func(ctx context.Context) (bool, error) {
		pvs, err := up.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		ours := map[string]bool{}
		for _, pv := range pvs.Items {
			if c := pv.Spec.ClaimRef; c != nil && c.Namespace == s.name {
				ours[pv.Name] = true
			}
		}
		list, err := up.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, a := range list.Items {
			if pv := a.Spec.Source.PersistentVolumeName; pv != nil && ours[*pv] {
				return false, fmt.Errorf("%s is on %s", *pv, a.Spec.NodeName)
			}
		}
		return true, nil
	})
}

// snapshot takes a snapshot of a claim and waits until it can be used.
func (s *space) snapshot(name, of string) error {
	s.apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec: {volumeSnapshotClassName: strata, source: {persistentVolumeClaimName: %s}}
`, name, of))
	return cluster.Wait(s.ctx, "snapshot "+name+" to be ready", patience, func(ctx context.Context) (bool, error) {
		out, err := kubectl(ctx, "", "-n", s.name, "get", "volumesnapshot", name, "-o",
			"jsonpath={.status.readyToUse} {.status.error.message}")
		return strings.HasPrefix(out, "true"), fmt.Errorf("it says %q: %v", out, err)
	})
}

// patchClaim changes a claim's specification.
func (s *space) patchClaim(name, spec string) error {
	_, err := up.Client.CoreV1().PersistentVolumeClaims(s.name).Patch(s.ctx, name, types.MergePatchType,
		[]byte(`{"spec":`+spec+`}`), metav1.PatchOptions{})
	return err
}
