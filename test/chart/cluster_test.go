package chart

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// living is a cluster in which some objects are there. Templates can only get them.
type living map[string]*unstructured.Unstructured

// apply makes objects be there.
func (l living) apply(t *testing.T, objects []Object) {
	t.Helper()
	for _, o := range objects {
		u := new(unstructured.Unstructured)
		if err := yaml.Unmarshal([]byte(o.Text), &u.Object); err != nil {
			t.Fatal(err)
		}
		l[u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName()] = u
	}
}

// GetClientFor implements engine.ClientProvider.
func (l living) GetClientFor(_, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return getter{in: l, kind: kind}, kind != "CustomResourceDefinition", nil
}

// getter gets objects of one kind; any other call is a nil pointer.
type getter struct {
	dynamic.NamespaceableResourceInterface
	in              living
	kind, namespace string
}

// Namespace implements dynamic.NamespaceableResourceInterface.
func (g getter) Namespace(ns string) dynamic.ResourceInterface {
	g.namespace = ns
	return g
}

// Get implements dynamic.ResourceInterface.
func (g getter) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	if u := g.in[g.kind+" "+g.namespace+"/"+name]; u != nil {
		return u.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: g.kind}, name)
}

// TestModeStays: stores are not taken away by a change of a value.
func TestModeStays(t *testing.T) {
	cluster := make(living)
	r := Release{Name: "strata", Namespace: "storage", Cluster: Cluster{Lookup: cluster}}
	objects, _ := rendered(t, r)
	cluster.apply(t, objects)
	rendered(t, r) // an upgrade
	r.Values = map[string]any{"store": map[string]any{"mode": "StatefulSet"}}
	_, _, err := Render(chartDir, r)
	if err == nil || !strings.Contains(err.Error(), "kubectl -n storage delete daemonset strata-store") {
		t.Fatalf("the mode changes: %v", err)
	}
	delete(cluster, "DaemonSet storage/strata-store")
	rendered(t, r)
}
