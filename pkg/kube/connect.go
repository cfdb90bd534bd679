package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// callTime bounds one call to the cluster's API.
const callTime = 10 * time.Second

// jsonType is what is spoken: our calls are few, and anybody can read them.
const jsonType = "application/json"

// ErrNotInCluster: the process does not run in a pod.
var ErrNotInCluster = errors.New("this process does not run in a pod of a cluster")

// Cluster is a connection to the API of a cluster.
type Cluster struct {
	core typed.CoreV1Interface
	// raw gets an object of a kind that client-go does not have.
	raw func(ctx context.Context, path string) ([]byte, error)
}

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
	cfg = rest.AddUserAgent(rest.CopyConfig(cfg), agent)
	cfg.Timeout, cfg.QPS, cfg.Burst = callTime, 5, 20
	cfg.ContentType, cfg.AcceptContentTypes = jsonType, jsonType
	core, err := typed.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &Cluster{core: core, raw: func(ctx context.Context, path string) ([]byte, error) {
		return core.RESTClient().Get().AbsPath(path).DoRaw(ctx)
	}}, nil
}
