package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/strata-csi/strata/pkg/store"
)

// RegistrationConfig says what kubelet is told.
type RegistrationConfig struct {
	// Dir is kubelet's directory for plugins that register, usually
	// /var/lib/kubelet/plugins_registry.
	Dir string
	// Endpoint is the path of the CSI socket as kubelet sees it.
	Endpoint string
	Log      klog.Logger
	// Every is how often the socket is looked for; 0 means 5 s.
	Every time.Duration
}

// Registration makes the driver known to kubelet, which finds a socket in its directory
// and asks there for name and endpoint. Safe for concurrent use.
type Registration struct {
	cfg  RegistrationConfig
	path string

	mu      sync.Mutex
	known   bool
	problem string
}

// registrationVersions are of kubelet's plugin interface for CSI.
var registrationVersions = []string{"1.0.0"}

// NewRegistration checks the configuration.
func NewRegistration(cfg RegistrationConfig) (*Registration, error) {
	if !filepath.IsAbs(cfg.Dir) || !filepath.IsAbs(cfg.Endpoint) {
		return nil, fmt.Errorf("register with kubelet: directory %q and endpoint %q must be absolute paths: %w", cfg.Dir, cfg.Endpoint, store.ErrInvalid)
	}
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	return &Registration{cfg: cfg, path: filepath.Join(cfg.Dir, Name+"-reg.sock")}, nil
}

// State tells whether kubelet has accepted the driver, and if not, what it said.
func (r *Registration) State() (registered bool, problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known, r.problem
}

// Serve offers the registration until ctx ends. When the socket vanishes, as it does
// when kubelet's directory is made anew, it is made again.
func (r *Registration) Serve(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.round(ctx); err != nil {
			return fmt.Errorf("register with kubelet: %w", err)
		}
	}
	return nil
}

// round serves one socket for as long as it is there.
func (r *Registration) round(ctx context.Context) error {
	l, err := listenUnix(r.path)
	if err != nil {
		return err
	}
	mine, err := os.Stat(r.path)
	if err != nil {
		_ = l.Close()
		return err
	}
	// Another's socket may be at the path by the time this one is closed.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s := grpc.NewServer()
	pluginregistration.RegisterRegistrationServer(s, registrationServer{r: r})
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	err = r.guard(ctx, mine, failed)
	s.Stop()
	if err == nil {
		<-failed
	}
	if now, e := os.Stat(r.path); e == nil && os.SameFile(now, mine) {
		if e := os.Remove(r.path); e != nil && !errors.Is(e, fs.ErrNotExist) && err == nil {
			err = e
		}
	}
	return err
}

// guard waits until the socket is gone or the context ends; an error is that of serving.
func (r *Registration) guard(ctx context.Context, mine fs.FileInfo, failed <-chan error) error {
	t := time.NewTicker(r.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-t.C:
		}
		if now, err := os.Stat(r.path); err != nil || !os.SameFile(now, mine) {
			r.cfg.Log.Info("The registration socket is gone; making it again", "path", r.path)
			r.set(false, "")
			return nil
		}
	}
}

func (r *Registration) set(known bool, problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known, r.problem = known, problem
}

// registrationServer is what kubelet calls.
type registrationServer struct {
	pluginregistration.UnimplementedRegistrationServer
	r *Registration
}

// GetInfo implements kubelet's interface.
func (s registrationServer) GetInfo(context.Context, *pluginregistration.InfoRequest) (*pluginregistration.PluginInfo, error) {
	return &pluginregistration.PluginInfo{
		Type: pluginregistration.CSIPlugin, Name: Name, Endpoint: s.r.cfg.Endpoint, SupportedVersions: registrationVersions,
	}, nil
}

// NotifyRegistrationStatus implements kubelet's interface.
func (s registrationServer) NotifyRegistrationStatus(_ context.Context, st *pluginregistration.RegistrationStatus) (*pluginregistration.RegistrationStatusResponse, error) {
	s.r.set(st.GetPluginRegistered(), st.GetError())
	if st.GetPluginRegistered() {
		s.r.cfg.Log.Info("Registered with kubelet", "endpoint", s.r.cfg.Endpoint)
	} else {
		// Kubelet tries again by itself for as long as the socket is there.
		s.r.cfg.Log.Error(errors.New(st.GetError()), "Kubelet refuses the driver")
	}
	return &pluginregistration.RegistrationStatusResponse{}, nil
}
