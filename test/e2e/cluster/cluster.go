// Package cluster brings up a real Kubernetes on one machine: etcd and the control plane
// as processes, a kubelet of the machine itself for pods that need no block devices, and
// kubelets in QEMU guests, whose kernel has NBD, for those that do. All of it lives in
// the network, mount and process namespaces that it is started in (hack/e2e.sh), so
// nothing of it is seen from outside and nothing outlives it but its folder.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/strata-csi/strata/test/e2e/process"
	"github.com/strata-csi/strata/test/e2e/report"
)

// Options of a cluster.
type Options struct {
	Bin      string   // folder with the programs of Kubernetes
	Work     string   // empty folder for state and logs
	Images   []string // archives of images that every node has from its start on
	Audit    string   // namespace whose accounts' requests are recorded
	Guests   int
	MemoryMB int // of each guest
	Report   *report.Report
}

// ControlNode is the name of the machine's own node.
const ControlNode = "control"

// GuestNode returns the name of guest i, from 1 on.
func GuestNode(i int) string { return fmt.Sprintf("node%d", i) }

// Cluster is a running cluster.
type Cluster struct {
	Client     kubernetes.Interface
	Config     *rest.Config
	Kubeconfig string // of the administrator

	opts    Options
	ca      *authority
	mu      sync.Mutex
	control map[string]*process.Process
	specs   map[string]process.Spec
	order   []string // of start
	guests  []*guest
	host    *hostNode
	holder  *holder

	attached bool // another process runs all of it
}

// Up brings a cluster up; when it fails it ends what it started.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster(o)
	if err != nil {
		return nil, fmt.Errorf("bring cluster up: %w", err)
	}
	if err := c.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("bring cluster up: %w", err), c.Down())
	}
	return c, nil
}

// newCluster returns a cluster of which nothing runs yet.
func newCluster(o Options) (*Cluster, error) {
	c := &Cluster{opts: o, control: map[string]*process.Process{}, specs: map[string]process.Spec{}}
	for _, dir := range []string{"logs", "images", "pki"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) (err error) {
	step := c.opts.Report.Step
	if c.holder, err = c.hold(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if err := step("network, certificates", func() error {
		return errors.Join(network(ctx, c.opts.Guests), c.certificates())
	}); err != nil {
		return err
	}
	if err := step("images imported for all nodes", func() error {
		return errors.Join(c.baseImages(ctx), c.importBase(ctx))
	}); err != nil {
		return err
	}
	if err := step("guests started", func() error { return c.startGuests(ctx) }); err != nil {
		return err
	}
	if err := step("etcd and API server ready", func() error { return c.startControl(ctx) }); err != nil {
		return err
	}
	if err := step("controllers, scheduler, DNS started", func() error { return c.startControllers(ctx) }); err != nil {
		return err
	}
	if err := step("node "+ControlNode+" ready", func() error {
		if err := c.startHost(ctx); err != nil {
			return err
		}
		return c.WaitNode(ctx, ControlNode, patience)
	}); err != nil {
		return err
	}
	for i := range c.guests {
		if err := step("node "+GuestNode(i+1)+" ready", func() error {
			return c.WaitNode(ctx, GuestNode(i+1), patience)
		}); err != nil {
			return err
		}
	}
	return nil
}

// certificates makes those of the control plane and of every node.
func (c *Cluster) certificates() error {
	var err error
	if c.ca, err = newAuthority(filepath.Join(c.opts.Work, "pki")); err != nil {
		return err
	}
	if err := c.signAll(); err != nil {
		return err
	}
	if err := c.ca.kubeconfig(c.path(adminConfig), "admin", "https://"+apiAddress); err != nil {
		return err
	}
	return c.connect()
}

const adminConfig = "admin.kubeconfig"

// connect makes the clients.
func (c *Cluster) connect() error {
	c.Kubeconfig = c.path(adminConfig)
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	c.Config.QPS, c.Config.Burst = 200, 400
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return nil
}

func (c *Cluster) path(name string) string { return filepath.Join(c.opts.Work, name) }

func (c *Cluster) bin(name string) string { return filepath.Join(c.opts.Bin, name) }

// start starts a process of the control plane under a name that restart and stop know.
func (c *Cluster) start(name string, args ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	spec := process.Spec{Name: name, Args: args, Logs: c.path("logs")}
	p, err := process.Start(spec)
	if err != nil {
		return err
	}
	if _, ok := c.specs[name]; !ok {
		c.order = append(c.order, name)
	}
	c.control[name], c.specs[name] = p, spec
	return nil
}

// Stop ends a process of the control plane by its name, such as kube-apiserver.
func (c *Cluster) Stop(name string) error {
	if c.attached {
		return c.ask(verbStop, name)
	}
	c.mu.Lock()
	p := c.control[name]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("stop %s: it is not running", name)
	}
	return p.Stop(20 * time.Second)
}

// Restart starts a process again that Stop has ended.
func (c *Cluster) Restart(ctx context.Context, name string) error {
	if c.attached {
		return c.ask(verbRestart, name)
	}
	c.mu.Lock()
	spec, ok := c.specs[name]
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("restart %s: it never ran", name)
	}
	if err := c.start(name, spec.Args...); err != nil {
		return err
	}
	if name == "kube-apiserver" {
		return c.waitAPI(ctx)
	}
	return nil
}

// Alive returns an error when a process of the control plane or a guest has ended.
func (c *Cluster) Alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed []error
	for _, p := range c.control {
		failed = append(failed, p.Failed())
	}
	return errors.Join(failed...)
}

// Down ends everything, in the reverse of the order in which it started. The namespaces
// that it runs in end what might be left.
func (c *Cluster) Down() error {
	var failed []error
	if c.holder != nil {
		failed = append(failed, c.holder.close())
	}
	if c.host != nil {
		failed = append(failed, c.host.stop())
	}
	for _, g := range c.guests {
		failed = append(failed, g.kill())
	}
	for i := len(c.order) - 1; i >= 0; i-- {
		failed = append(failed, c.control[c.order[i]].Stop(10*time.Second))
	}
	return errors.Join(failed...)
}
