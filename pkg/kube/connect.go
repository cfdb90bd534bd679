package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

const (
	// callTime bounds one call to the cluster's API.
	callTime = 10 * time.Second
	// listPage is how many volumes one answer holds.
	listPage = 500
	// jsonType is what is spoken: our calls are few, and anybody can read them.
	jsonType = "application/json"
)

// ErrNotInCluster: the process does not run in a pod.
var ErrNotInCluster = errors.New("this process does not run in a pod of a cluster")

// Cluster is a connection to the API of a cluster. It is made of client-go's REST client
// alone: the typed clients bring every kind of object there is, which would double the
// size of the program.
type Cluster struct{ api *rest.RESTClient }

// InCluster tells whether the process runs in a pod.
func InCluster() bool {
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" && os.Getenv("KUBERNETES_SERVICE_PORT") != ""
}

// Connect prepares a connection with the rights of the pod's account; nothing is asked
// yet. agent names the program. ErrNotInCluster outside of a pod.
func Connect(agent string) (*Cluster, error) {
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, ErrNotInCluster
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return connect(cfg, agent)
}

// ConnectAt is Connect for an API that asks for no credentials, such as kubectl proxy's.
func ConnectAt(url, agent string) (*Cluster, error) {
	return connect(&rest.Config{Host: url}, agent)
}

func connect(cfg *rest.Config, agent string) (*Cluster, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = agent
	cfg.Timeout, cfg.QPS, cfg.Burst = callTime, 5, 20
	cfg.ContentType, cfg.AcceptContentTypes = jsonType, jsonType
	cfg.APIPath, cfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	api, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &Cluster{api: api}, nil
}

// volume gets a PersistentVolume.
func (c *Cluster) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	pv := new(corev1.PersistentVolume)
	return pv, c.api.Get().Resource("persistentvolumes").Name(name).Do(ctx).Into(pv)
}

// volumes calls fn for every PersistentVolume.
func (c *Cluster) volumes(ctx context.Context, fn func(*corev1.PersistentVolume)) error {
	for next := ""; ; {
		page := new(corev1.PersistentVolumeList)
		req := c.api.Get().Resource("persistentvolumes").Param("limit", strconv.Itoa(listPage))
		if next != "" {
			req.Param("continue", next)
		}
		if err := req.Do(ctx).Into(page); err != nil {
			return err
		}
		for i := range page.Items {
			fn(&page.Items[i])
		}
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

// content is as much as matters of a VolumeSnapshotContent.
type content struct {
	Spec struct {
		Driver string                 `json:"driver"`
		Ref    corev1.ObjectReference `json:"volumeSnapshotRef"`
	} `json:"spec"`
	Status struct {
		Handle string `json:"snapshotHandle"`
	} `json:"status"`
}

// content gets a VolumeSnapshotContent, whose kind client-go does not have.
func (c *Cluster) content(ctx context.Context, name string) (*content, error) {
	data, err := c.api.Get().AbsPath("/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents", name).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	found := new(content)
	return found, json.Unmarshal(data, found)
}

// tell makes an event in its namespace.
func (c *Cluster) tell(ctx context.Context, e *corev1.Event) error {
	return c.api.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
}
