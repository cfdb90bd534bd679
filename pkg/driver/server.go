package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/store"
)

// ServerConfig says what a server serves.
type ServerConfig struct {
	// Endpoint is unix:///path/csi.sock, or the path alone.
	Endpoint string
	// Identity is required; a service that is nil is not served.
	Identity   csi.IdentityServer
	Controller csi.ControllerServer
	Node       csi.NodeServer
	Log        klog.Logger
	// Metrics counts the calls; nil means that nobody does.
	Metrics *Metrics
	// Grace bounds how long calls under way may take at the end; 0 means 20 s.
	Grace time.Duration
}

// Server answers CSI calls on a unix socket.
type Server struct {
	cfg  ServerConfig
	path string
	l    net.Listener
	grpc *grpc.Server
}

// maxCSIRequest bounds a request, in bytes; the specification's own limits are far below.
const maxCSIRequest = 4 << 20

// Listen opens the socket and registers the services. A socket of a process that has
// ended is replaced; one on which somebody listens is store.ErrInUse.
func Listen(cfg ServerConfig) (*Server, error) {
	path, err := socketPath(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Identity == nil {
		return nil, fmt.Errorf("listen at %s: the identity service is missing: %w", path, store.ErrInvalid)
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 20 * time.Second
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, path: path, l: l, grpc: grpc.NewServer(
		grpc.MaxRecvMsgSize(maxCSIRequest),
		grpc.UnaryInterceptor(newObserver(cfg.Log, cfg.Metrics).unary),
	)}
	csi.RegisterIdentityServer(s.grpc, cfg.Identity)
	if cfg.Controller != nil {
		csi.RegisterControllerServer(s.grpc, cfg.Controller)
	}
	if cfg.Node != nil {
		csi.RegisterNodeServer(s.grpc, cfg.Node)
	}
	return s, nil
}

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Serve answers until ctx ends. Then it takes no more calls, and waits for those under
// way for as long as ServerConfig.Grace lets it.
func (s *Server) Serve(ctx context.Context) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		hard := time.AfterFunc(s.cfg.Grace, s.grpc.Stop)
		defer hard.Stop()
		s.grpc.GracefulStop()
	})
	err := s.grpc.Serve(s.l)
	if !stop() {
		<-ended
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve CSI at %s: %w", s.path, err)
	}
	return nil
}

// socketPath reads an endpoint as CSI_ENDPOINT has it.
func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix:")
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		path = rest
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("CSI endpoint %q: want unix:///path/csi.sock: %w", endpoint, store.ErrInvalid)
	}
	return path, nil
}

// listenUnix listens at a path that only this user may use. What is there and is no socket
// stays: store.ErrInvalid.
func listenUnix(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("listen at %s: what is there is no socket; remove it, or choose another path: %w", path, store.ErrInvalid)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen at %s: another process listens there: %w", path, store.ErrInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: remove an old socket: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l, nil
}
