package chart

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// kinds tells how often each kind is rendered, and which are hooks.
func kinds(t *testing.T, objects []Object) (all map[string]int, hooks map[string]string) {
	t.Helper()
	d := decoder(t)
	all, hooks = make(map[string]int), make(map[string]string)
	for _, o := range objects {
		object, meta, err := d.Decode(o.Text)
		if err != nil {
			t.Fatal(err)
		}
		kind := object.GetObjectKind().GroupVersionKind().Kind
		all[kind]++
		if h := meta.GetAnnotations()["helm.sh/hook"]; h != "" && h != "test" {
			hooks[kind] = h
		}
	}
	return all, hooks
}

// TestSnapshotAPI: a class needs the API, which may be there, or come with the release.
func TestSnapshotAPI(t *testing.T) {
	cluster := make(living)
	r := Release{Name: "strata", Namespace: "storage", Cluster: Cluster{Lookup: cluster}}

	objects, notes := rendered(t, r)
	all, _ := kinds(t, objects)
	if all["VolumeSnapshotClass"]+all["CustomResourceDefinition"]+all["VolumeSnapshot"] > 0 || !strings.Contains(notes, "no snapshot API") {
		t.Errorf("without the API: %v", all)
	}

	// The release brings it: the class can only be made once the rest is there.
	r.Values = map[string]any{"snapshotController": map[string]any{"enabled": true}}
	objects, _ = rendered(t, r)
	all, hooks := kinds(t, objects)
	if all["CustomResourceDefinition"] != 3 || hooks["VolumeSnapshotClass"] != "post-install,post-upgrade,post-rollback" || len(hooks) != 1 || all["VolumeSnapshot"] != 1 {
		t.Errorf("with the API: %v, hooks %v", all, hooks)
	}
	made := make(living)
	made.apply(t, objects)
	class := made["VolumeSnapshotClass /strata"]
	// What Helm asks for before it takes an object over.
	if class.GetLabels()["app.kubernetes.io/managed-by"] != "Helm" || class.GetAnnotations()["meta.helm.sh/release-name"] != "strata" || class.GetAnnotations()["meta.helm.sh/release-namespace"] != "storage" {
		t.Errorf("the class cannot be taken over: %v %v", class.GetLabels(), class.GetAnnotations())
	}

	// The next upgrade finds the CRDs, which are its own, and the class is an object like others.
	r.Cluster.APIs = []string{"snapshot.storage.k8s.io/v1"}
	cluster.apply(t, objects)
	for _, crd := range cluster.crds() {
		if crd.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would go with the release, and all snapshots with it", crd.GetName())
		}
		crd.SetAnnotations(map[string]string{"meta.helm.sh/release-name": "strata", "meta.helm.sh/release-namespace": "storage"})
	}
	objects, _ = rendered(t, r)
	if all, hooks = kinds(t, objects); all["CustomResourceDefinition"] != 3 || len(hooks) != 0 || all["VolumeSnapshotClass"] != 1 {
		t.Errorf("an upgrade: %v, hooks %v", all, hooks)
	}

	// CRDs of somebody else are left alone.
	for _, crd := range cluster.crds() {
		crd.SetAnnotations(nil)
	}
	objects, _ = rendered(t, r)
	if all, _ = kinds(t, objects); all["CustomResourceDefinition"] != 0 || all["Deployment"] != 2 {
		t.Errorf("beside the CRDs of the cluster: %v", all)
	}
}

func (l living) crds() (all []*unstructured.Unstructured) {
	for key, u := range l {
		if strings.HasPrefix(key, "CustomResourceDefinition ") {
			all = append(all, u)
		}
	}
	return all
}
