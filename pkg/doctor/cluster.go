package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// serviceAccount is where a pod finds its credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster returns how to ask the API server of the cluster that this process runs
// in, nil outside of a cluster. env is os.Getenv.
func InCluster(env func(string) string) (func(ctx context.Context, path string) (int, error), error) {
	host, port := env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, nil
	}
	token, err := os.ReadFile(serviceAccount + "/token")
	if err != nil {
		return nil, fmt.Errorf("credentials of the pod: %w", err)
	}
	ca, err := os.ReadFile(serviceAccount + "/ca.crt")
	if err != nil {
		return nil, fmt.Errorf("credentials of the pod: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s/ca.crt holds no certificate", serviceAccount)
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
	return func(ctx context.Context, path string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+path, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}, nil
}

// snapshots: a cluster needs the snapshot API and the controller that serves it, which
// are the cluster's and not a driver's.
func (h Host) snapshots(ctx context.Context) []Finding {
	if h.Cluster == nil {
		return nil
	}
	const install = "install the CRDs and the snapshot-controller of external-snapshotter (the chart: snapshotController.enabled=true)"
	api := h.ask(ctx, "snapshot API", "/apis/snapshot.storage.k8s.io/v1", install)
	if api.Level != Good {
		return []Finding{api}
	}
	// The controller holds this lease while it runs with leader election.
	lease := h.ask(ctx, "snapshot controller", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/snapshot-controller-leader", install)
	if lease.Level == Bad {
		lease.Level = Warning
		lease.Do = "unless it runs without leader election or in another namespace, " + install
	}
	return []Finding{api, lease}
}

func (h Host) ask(ctx context.Context, name, path, install string) Finding {
	status, err := h.Cluster(ctx, path)
	switch {
	case err != nil:
		return good(name, "%v", err).but(Unknown, "the API server must be reachable from here")
	case status == http.StatusNotFound:
		return good(name, "not there").but(Bad, install)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return good(name, "this service account may not look (HTTP %d)", status).but(Unknown, "look with kubectl: kubectl get --raw "+path)
	case status != http.StatusOK:
		return good(name, "HTTP %d", status).but(Unknown, "look with kubectl: kubectl get --raw "+path)
	}
	return good(name, "there")
}

// Synchronised asks the kernel whether a time service keeps the clock, see
// adjtimex(2).
func Synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, fmt.Errorf("ask for the state of the clock: %w", err)
	}
	const timeError = 5 // TIME_ERROR
	return state != timeError && t.Status&unix.STA_UNSYNC == 0, nil
}
