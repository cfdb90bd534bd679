package cluster

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// subject returns a user's name with the groups that it is in.
func subject(name string, groups ...string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: groups} //nolint:misspell // the field's name
}

func (c *Cluster) signAll() error {
	type signed struct {
		name    string
		subject pkix.Name
		hosts   []string
	}
	const masters = "system:masters"
	all := []signed{
		{"apiserver", subject("kube-apiserver"), []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			apiAddress, controlIP, "127.0.0.1", "localhost"}},
		{"admin", subject("admin", masters), nil},
		{"kubelet-client", subject("kube-apiserver-kubelet-client", masters), nil},
		{"kube-controller-manager", subject("system:kube-controller-manager"), nil},
		{"kube-scheduler", subject("system:kube-scheduler"), nil},
	}
	nodes := []string{ControlNode}
	for i := range c.opts.Guests {
		nodes = append(nodes, GuestNode(i+1))
	}
	for _, n := range nodes {
		all = append(all, signed{n, subject("system:node:"+n, "system:nodes"), nil})
	}
	for _, s := range all {
		if err := c.ca.sign(s.name, s.subject, s.hosts...); err != nil {
			return err
		}
	}
	_, err := c.ca.newKey("tokens")
	return err
}

// AuditLog returns the file with a line for each request that an account of the audited
// namespace has made, as an object of audit.k8s.io/v1.
func (c *Cluster) AuditLog() string { return c.path("logs/audit.log") }

// writeAuditPolicy makes the API server record who asked for what, not the objects.
func (c *Cluster) writeAuditPolicy() error {
	policy := fmt.Sprintf(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:%s"]}
- {level: None}
`, c.opts.Audit)
	if err := os.WriteFile(c.path("audit.yaml"), []byte(policy), 0o644); err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	return nil
}

// startControl starts etcd and the API server and waits until that is ready.
func (c *Cluster) startControl(ctx context.Context) error {
	if err := c.start("etcd", c.bin("etcd"), "--name", "e2e", "--data-dir", c.path("etcd"),
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "e2e=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"); err != nil {
		return err
	}
	if err := c.writeAuditPolicy(); err != nil {
		return err
	}
	f := c.ca.file
	if err := c.start("kube-apiserver", c.bin("kube-apiserver"),
		"--etcd-servers", "http://127.0.0.1:2379", "--secure-port", "443", "--bind-address", "0.0.0.0",
		"--advertise-address", controlIP, "--service-cluster-ip-range", serviceCIDR,
		"--tls-cert-file", f("apiserver.crt"), "--tls-private-key-file", f("apiserver.key"),
		"--client-ca-file", f("ca.crt"),
		"--kubelet-client-certificate", f("kubelet-client.crt"), "--kubelet-client-key", f("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--service-account-key-file", f("tokens.pub"), "--service-account-signing-key-file", f("tokens.key"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--audit-policy-file", c.path("audit.yaml"), "--audit-log-path", c.AuditLog(),
		"--allow-privileged=true"); err != nil {
		return err
	}
	return c.waitAPI(ctx)
}

func (c *Cluster) waitAPI(ctx context.Context) error {
	return Wait(ctx, "API server to be ready", patience, func(ctx context.Context) (bool, error) {
		if err := c.Alive(); err != nil {
			return false, Final(err)
		}
		_, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, err
	})
}

func (c *Cluster) startControllers(ctx context.Context) error {
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		if err := c.ca.kubeconfig(c.path(name+".kubeconfig"), name, "https://"+apiAddress); err != nil {
			return err
		}
	}
	config := c.path("kube-controller-manager.kubeconfig")
	if err := c.start("kube-controller-manager", c.bin("kube-controller-manager"),
		"--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
		"--root-ca-file", c.ca.file("ca.crt"), "--service-account-private-key-file", c.ca.file("tokens.key"),
		"--use-service-account-credentials=true", "--leader-elect=false", "--bind-address", "127.0.0.1"); err != nil {
		return err
	}
	config = c.path("kube-scheduler.kubeconfig")
	if err := c.start("kube-scheduler", c.bin("kube-scheduler"), "--kubeconfig", config,
		"--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
		"--leader-elect=false", "--bind-address", "127.0.0.1"); err != nil {
		return err
	}
	if err := c.startDNS(); err != nil {
		return err
	}
	return Wait(ctx, "the default service account", patience, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
}

// startDNS starts what names headless services: the addresses of their pods, so no
// service proxy is needed.
func (c *Cluster) startDNS() error {
	corefile := fmt.Sprintf(`. {
  errors
  kubernetes cluster.local {
    kubeconfig %s e2e
    ttl 5
  }
}
`, c.Kubeconfig)
	if err := os.WriteFile(c.path("Corefile"), []byte(corefile), 0o644); err != nil {
		return fmt.Errorf("write Corefile: %w", err)
	}
	return c.start("coredns", c.bin("coredns"), "-conf", c.path("Corefile"))
}

// WaitNode waits until a node is ready.
func (c *Cluster) WaitNode(ctx context.Context, name string, timeout time.Duration) error {
	return Wait(ctx, "node "+name+" to be ready", timeout, func(ctx context.Context) (bool, error) {
		if err := c.Alive(); err != nil {
			return false, Final(err)
		}
		n, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				return cond.Status == corev1.ConditionTrue, fmt.Errorf("node says: %s", cond.Message)
			}
		}
		return false, nil
	})
}
