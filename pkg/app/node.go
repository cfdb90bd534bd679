package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/driver"
	"github.com/strata-csi/strata/pkg/kube"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/stage"
)

// keyLimit is after how many bytes a connection that the kernel encrypts is replaced:
// a quarter of what its key is good for, because small requests cost more than their
// bytes and replacing takes its time.
const keyLimit = nbd.KeyBudget / 4

// NodeConfig is that of a node process.
type NodeConfig struct {
	// PoolsFile describes the pools.
	PoolsFile string
	// Node is the name of the node, as the CO knows it.
	Node string
	// State is where records of what is attached are kept. It must outlive the process.
	State string
	// ProgramGroup is the directory of a control group (v2) for the programs that touch
	// devices, outside of that of the process' container; see stage.Config. "" is none.
	ProgramGroup string
	// Endpoint is where CSI is served: unix:///path/csi.sock; "" serves none, for a host
	// without a CO.
	Endpoint string
	// RegistrationDir is kubelet's directory for plugins; "" registers nowhere.
	RegistrationDir string
	// KubeletEndpoint is the path of Endpoint as kubelet sees it; "" means the same.
	KubeletEndpoint string
	// FirstIndex and LastIndex are the range of NBD devices; both 0 mean 64 to 1023.
	FirstIndex, LastIndex int
	// DeadTimeout is how long I/O waits for a store that is away; 0 means 7 days.
	DeadTimeout time.Duration
	// KeyLimit is after how many bytes an encrypted connection is replaced; 0 means
	// what its key is good for, with a margin.
	KeyLimit int64
	Web      Web
	// Events says whether users are told of fenced volumes by events; "" means auto.
	Events KubeEvents
	// Version is told to the CO and in the metrics.
	Version string
	// Stop bounds how long a stop may take; 0 means 30 s.
	Stop time.Duration
	// Ready, if set, is called once everything is served.
	Ready func()
}

// Node serves the CSI node until the context ends, which is no error, or something
// fails. It logs to the logger of the context. Its end detaches nothing: I/O goes on,
// and the next process takes up what is there.
func Node(ctx context.Context, cfg NodeConfig) error {
	d := new(daemon)
	return d.run(ctx, cfg.Stop, func(ctx context.Context) error {
		var up atomic.Bool
		if err := d.tell(cfg.Web, "node", cfg.Version, readiness(&up)); err != nil {
			return err
		}
		r, err := loadReach(cfg.PoolsFile, true)
		if err != nil {
			return err
		}
		d.stack.pushPlain("connections to stores", r.pools.Close)
		events, err := d.events(cfg.Events, cfg.Version, cfg.Node)
		if err != nil {
			return err
		}
		node, err := d.node(ctx, cfg, r, events)
		if err != nil {
			return err
		}
		identity := driver.NewIdentity(driver.IdentityConfig{Version: cfg.Version, Controller: true, Ready: up.Load})
		if err := d.csi(cfg.Endpoint, services{identity: identity, node: node}); err != nil {
			return err
		}
		if err := d.register(cfg); err != nil {
			return err
		}
		up.Store(true)
		return nil
	}, cfg.Ready)
}

// kernel makes sure that devices can be attached.
func (d *daemon) kernel(cfg NodeConfig) (*attach.Kernel, error) {
	k, err := attach.New(attach.Config{First: cfg.FirstIndex, Last: cfg.LastIndex, DeadTimeout: cfg.DeadTimeout})
	if err != nil {
		return nil, err
	}
	d.stack.push("kernel", k.Close)
	if err := k.Supported(); err != nil {
		return nil, fmt.Errorf("%w; see: strata doctor", err)
	}
	return k, nil
}

// AttachSupported tells whether this host can attach kernel NBD devices; the error says
// what to do.
func AttachSupported() error {
	k, err := attach.New(attach.Config{})
	if err != nil {
		return err
	}
	err = k.Supported()
	if errors.Is(err, attach.ErrStuck) {
		return err // Close would wait for the kernel to answer
	}
	return errors.Join(err, k.Close(context.Background()))
}

// node makes the node's service. Without a recorder only the log hears of fenced volumes.
func (d *daemon) node(ctx context.Context, cfg NodeConfig, r *reach, recorder *kube.Recorder) (*driver.Node, error) {
	if cfg.Node == "" {
		return nil, errors.New("the node's name is not given")
	}
	k, err := d.kernel(cfg)
	if err != nil {
		return nil, err
	}
	events, err := driver.NewNodeEvents(klog.LoggerWithName(d.log, "link"), d.web.registry)
	if err != nil {
		return nil, err
	}
	notify := func(e stage.Event) {
		events.Notify(e)
		fenced(recorder, cfg.Node, e)
	}
	limit := cfg.KeyLimit
	if limit == 0 {
		limit = keyLimit
	}
	s, err := stage.Open(ctx, stage.Config{
		Dir: cfg.State, Node: cfg.Node, Finder: finder{r.pools}, Kernel: k, Dial: r.device,
		Notify: notify, KeyLimit: limit, ProgramGroup: cfg.ProgramGroup,
	})
	if err != nil {
		return nil, err
	}
	d.stack.push("stage", s.Close)
	d.web.registry.MustRegister(driver.NewNodeCollector(s))
	settings, err := r.pools.Settings("")
	if err != nil {
		settings.Name = "" // without a default pool, each request names one
	}
	if err := d.control(cfg.State, settings.Name, s); err != nil {
		return nil, err
	}
	return driver.NewNode(driver.NodeConfig{ID: cfg.Node}, s), nil
}

// register tells kubelet of the endpoint.
func (d *daemon) register(cfg NodeConfig) error {
	if cfg.RegistrationDir == "" || cfg.Endpoint == "" {
		return nil
	}
	endpoint := cfg.KubeletEndpoint
	if endpoint == "" {
		abs, err := filepath.Abs(strings.TrimPrefix(strings.TrimPrefix(cfg.Endpoint, "unix:"), "//"))
		if err != nil {
			return fmt.Errorf("endpoint %q: %w", cfg.Endpoint, err)
		}
		endpoint = abs
	}
	reg, err := driver.NewRegistration(driver.RegistrationConfig{
		Dir: cfg.RegistrationDir, Endpoint: endpoint, Log: klog.LoggerWithName(d.log, "registration"),
	})
	if err != nil {
		return err
	}
	d.serving = append(d.serving, reg.Serve)
	return nil
}

// services are what a CSI socket serves; nil ones are left out.
type services struct {
	identity   *driver.Identity
	controller *driver.Controller
	node       *driver.Node
}

// csi listens for CSI.
func (d *daemon) csi(endpoint string, s services) error {
	if endpoint == "" {
		return nil
	}
	metrics, err := driver.NewMetrics(d.web.registry)
	if err != nil {
		return err
	}
	cfg := driver.ServerConfig{
		Endpoint: endpoint, Identity: s.identity, Log: klog.LoggerWithName(d.log, "csi"), Metrics: metrics,
	}
	// A nil pointer in an interface would be served.
	if s.controller != nil {
		cfg.Controller = s.controller
	}
	if s.node != nil {
		cfg.Node = s.node
	}
	server, err := driver.Listen(cfg)
	if err != nil {
		return err
	}
	d.log.Info("Serving CSI", "endpoint", server.Path())
	d.serving = append(d.serving, server.Serve)
	return nil
}

// readiness is false until the start is over.
func readiness(up *atomic.Bool) func(context.Context) error {
	return func(context.Context) error {
		if up.Load() {
			return nil
		}
		return errors.New("starting")
	}
}
