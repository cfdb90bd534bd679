package chart

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// pod is a pod, or the template of pods.
type pod struct {
	name     string
	labels   map[string]string
	selector *metav1.LabelSelector // nil for a pod by itself
	spec     corev1.PodSpec
	hook     bool
}

// role is that of the process in the pod.
func (p pod) role() string {
	c := p.labels["app.kubernetes.io/component"]
	if strings.HasPrefix(c, "gateway-") {
		return "store"
	}
	return c
}

// podsOf are all pods among objects.
func podsOf(t *testing.T, objects []Object) (all []pod) {
	t.Helper()
	d := decoder(t)
	for _, o := range objects {
		object, meta, err := d.Decode(o.Text)
		if err != nil {
			t.Fatal(err)
		}
		p := pod{name: meta.GetName(), hook: o.Hook}
		var template corev1.PodTemplateSpec
		switch w := object.(type) {
		case *appsv1.Deployment:
			p.selector, template = w.Spec.Selector, w.Spec.Template
		case *appsv1.DaemonSet:
			p.selector, template = w.Spec.Selector, w.Spec.Template
		case *appsv1.StatefulSet:
			p.selector, template = w.Spec.Selector, w.Spec.Template
		case *corev1.Pod:
			template = corev1.PodTemplateSpec{ObjectMeta: w.ObjectMeta, Spec: w.Spec}
		default:
			continue
		}
		p.labels, p.spec = template.Labels, template.Spec
		all = append(all, p)
	}
	return all
}

// containers are all of a pod.
func (p pod) containers() []corev1.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

// TestPods: what every pod has, whatever the values.
func TestPods(t *testing.T) {
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		ports := make(map[int32]string)
		for _, p := range podsOf(t, objects) {
			where := name + ": " + p.name
			if p.selector != nil {
				s, err := metav1.LabelSelectorAsSelector(p.selector)
				if err != nil || !s.Matches(labels.Set(p.labels)) {
					t.Errorf("%s: the selector does not match the pods: %v", where, err)
				}
				for k := range p.selector.MatchLabels { // never to be changed
					if !slices.Contains([]string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}, k) {
						t.Errorf("%s: selects by %s", where, k)
					}
				}
			}
			checkMounts(t, where, p)
			checkSecurity(t, where, p)
			for _, c := range p.containers() {
				if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError && !p.hook && c.Name != "modules" {
					t.Errorf("%s: %s says nothing at its end", where, c.Name)
				}
				for _, port := range c.Ports {
					if !p.spec.HostNetwork {
						continue
					}
					if was := ports[port.ContainerPort]; was != "" {
						t.Errorf("%s: port %d of the host is %s's", where, port.ContainerPort, was)
					}
					ports[port.ContainerPort] = p.name
				}
			}
		}
	}
}

// checkMounts: every mount has its volume and the reverse.
func checkMounts(t *testing.T, where string, p pod) {
	t.Helper()
	volumes := make(map[string]bool)
	for _, v := range p.spec.Volumes {
		volumes[v.Name] = false
	}
	for _, c := range p.containers() {
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok && (m.Name != "data" || p.role() != "store") {
				t.Errorf("%s: %s mounts %s, which is no volume", where, c.Name, m.Name)
			}
			volumes[m.Name] = true
		}
	}
	for v, used := range volumes {
		if !used {
			t.Errorf("%s: nobody mounts %s", where, v)
		}
	}
}

// checkSecurity: privileges are those that the process needs and no others.
func checkSecurity(t *testing.T, where string, p pod) {
	t.Helper()
	for _, c := range p.containers() {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("%s: %s can write to its root", where, c.Name)
			continue
		}
		privileged := s.Privileged != nil && *s.Privileged
		if privileged != (p.role() == "node") {
			t.Errorf("%s: %s: privileged is %v", where, c.Name, privileged)
		}
		if privileged {
			continue
		}
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %s keeps capabilities", where, c.Name)
		}
		var add []corev1.Capability
		if p.role() == "store" {
			add = []corev1.Capability{"SYS_RESOURCE", "IPC_LOCK"}
			if _, limited := c.Resources.Limits[corev1.ResourceMemory]; limited || c.Resources.Requests.Memory().IsZero() {
				t.Errorf("%s: a store has a request for memory and no limit", where)
			}
		} else if sc := p.spec.SecurityContext; sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
			t.Errorf("%s: %s may be root", where, c.Name)
		}
		if s.Capabilities != nil && !slices.Equal(s.Capabilities.Add, add) {
			t.Errorf("%s: %s adds %v, want %v", where, c.Name, s.Capabilities.Add, add)
		}
	}
	host := p.role() == "node" || p.role() == "store"
	if p.spec.HostNetwork != host || host && p.spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
		t.Errorf("%s: host network %v, DNS %s", where, p.spec.HostNetwork, p.spec.DNSPolicy)
	}
	if p.spec.HostPID != (p.role() == "node") {
		t.Errorf("%s: host PID %v", where, p.spec.HostPID)
	}
	if p.role() == "store" && (p.spec.AutomountServiceAccountToken == nil || *p.spec.AutomountServiceAccountToken) {
		t.Errorf("%s: a store needs no token", where)
	}
}

// TestSelectorsFind: services, budgets and monitors select pods that are there, by ports
// that these have.
func TestSelectorsFind(t *testing.T) {
	d := decoder(t)
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		pods := podsOf(t, objects)
		find := func(s map[string]string) (found []pod) {
			for _, p := range pods {
				if labels.SelectorFromSet(s).Matches(labels.Set(p.labels)) {
					found = append(found, p)
				}
			}
			return found
		}
		for _, o := range objects {
			object, meta, err := d.Decode(o.Text)
			if err != nil {
				t.Fatal(err)
			}
			switch s := object.(type) {
			case *corev1.Service:
				found := find(s.Spec.Selector)
				if len(found) != 1 {
					t.Errorf("%s: service %s selects %d kinds of pods", name, meta.GetName(), len(found))
					continue
				}
				for _, port := range s.Spec.Ports {
					if !found[0].hasPort(port.TargetPort.StrVal) {
						t.Errorf("%s: pods of service %s have no port %s", name, meta.GetName(), port.TargetPort.StrVal)
					}
				}
			case *policyv1.PodDisruptionBudget:
				if len(find(s.Spec.Selector.MatchLabels)) != 1 {
					t.Errorf("%s: budget %s", name, meta.GetName())
				}
			case *storagev1.CSIDriver:
				// These can never be changed in a cluster.
				if !*s.Spec.AttachRequired || !slices.Equal(s.Spec.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}) || s.Name != "csi.strata.dev" {
					t.Errorf("%s: driver %+v", name, s.Spec)
				}
			}
		}
	}
}

func (p pod) hasPort(name string) bool {
	for _, c := range p.spec.Containers {
		for _, port := range c.Ports {
			if port.Name == name {
				return true
			}
		}
	}
	return false
}

// TestHookOrder: helm test makes its objects in an order in which each finds what it needs,
// and its pods end by themselves.
func TestHookOrder(t *testing.T) {
	objects, _ := rendered(t, readRelease(t, "testdata/values/snapshot-controller.yaml"))
	d := decoder(t)
	var order []string
	for _, o := range objects {
		object, meta, err := d.Decode(o.Text)
		if err != nil {
			t.Fatal(err)
		}
		if meta.GetAnnotations()["helm.sh/hook"] != "test" {
			continue
		}
		order = append(order, object.GetObjectKind().GroupVersionKind().Kind+" "+meta.GetName())
		if p, ok := object.(*corev1.Pod); ok && (p.Spec.ActiveDeadlineSeconds == nil || p.Spec.RestartPolicy != corev1.RestartPolicyNever) {
			t.Errorf("%s may never end", p.Name)
		}
	}
	want := []string{
		"PersistentVolumeClaim strata-test-source", "Pod strata-test-write", "VolumeSnapshot strata-test",
		"PersistentVolumeClaim strata-test-restored", "Pod strata-test-compare",
	}
	if !slices.Equal(order, want) {
		t.Errorf("order %v", order)
	}
}
