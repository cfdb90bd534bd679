package chart

import (
	"fmt"

	groups "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// Decoder turns YAML into the types of the API server.
type Decoder struct{ strict runtime.Decoder }

// NewDecoder knows the types of Kubernetes, of the snapshot API, and of what the chart
// makes for cert-manager and the Prometheus operator.
func NewDecoder() (*Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientscheme.AddToScheme, apiextensions.AddToScheme, snapshots.AddToScheme,
		groups.AddToScheme, monitoring.AddToScheme, addCertManager,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("types of the API: %w", err)
		}
	}
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	return &Decoder{codecs.UniversalDeserializer()}, nil
}

// Decode refuses unknown types, unknown fields and fields that appear twice.
func (d *Decoder) Decode(text string) (runtime.Object, metav1.Object, error) {
	object, _, err := d.strict.Decode([]byte(text), nil, nil)
	if err != nil {
		return nil, nil, err
	}
	meta, ok := object.(metav1.Object)
	if !ok {
		return nil, nil, fmt.Errorf("a %T has no metadata", object)
	}
	return object, meta, nil
}
