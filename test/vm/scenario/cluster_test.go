//go:build kernelnbd

package scenario

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// cluster is a pool of stores, a controller and nodes, each a process of its own.
type cluster struct {
	t          *testing.T
	dir        string
	pools      string // the pools file
	stores     []*storeHost
	controller *server
	nodes      map[string]*server
	log        *kernelLog
}

// storeHost is a store process and its data directory.
type storeHost struct {
	*process
	data string
	http string // address of its metrics, in its network namespace
}

// server is a process with a CSI socket.
type server struct {
	*process
	socket string
	conn   *grpc.ClientConn
}

// single is a cluster of one store, reached over its unix sockets, a controller, and
// one node for each name.
func single(t *testing.T, nodes ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	s := c.addStore("store", "")
	c.writePools(fmt.Sprintf("pools:\n  - name: default\n    backend: layered\n    members: [\"unix:%s/api.sock\"]\n    local: %s\n",
		s.data, s.data))
	c.addController("")
	for _, n := range nodes {
		c.addNode(n)
	}
	return c
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp(wire.Scratch, "test-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, pools: filepath.Join(dir, "pools.yaml"), nodes: map[string]*server{}, log: openKernelLog(t)}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	return c
}

func (c *cluster) mkdir(dir string) {
	c.t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) writePools(text string) {
	c.t.Helper()
	if err := os.WriteFile(c.pools, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// addStore makes a store and starts it.
func (c *cluster) addStore(name, netns string, args ...string) *storeHost {
	c.t.Helper()
	data := filepath.Join(c.dir, name)
	if err := os.Mkdir(data, 0o700); err != nil {
		c.t.Fatal(err)
	}
	metrics := fmt.Sprintf("127.0.0.1:%d", 9900+len(c.stores))
	args = append([]string{"store", "--data", data, "--http", metrics}, args...)
	s := &storeHost{data: data, http: metrics, process: newProcess(c.t, c.dir, name, netns, append(args, "--init")...)}
	s.start()
	s.serving()
	// From now on it is started as it is on every later day.
	s.args = args
	c.stores = append(c.stores, s)
	return s
}

// serving waits until the store takes calls.
func (s *storeHost) serving() {
	s.t.Helper()
	eventually(s.t, time.Minute, s.name+" serves", func(ctx context.Context) error {
		return errors.Join(s.alive(), dialUnix(ctx, filepath.Join(s.data, "nbd.sock")), dialUnix(ctx, filepath.Join(s.data, "api.sock")))
	})
}

// connections is how many connections to images the store has had since it was started.
// It lives in the guest's own network namespace.
func (s *storeHost) connections() (sum int) {
	s.t.Helper()
	answer, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		var n int
		series, value, _ := strings.Cut(lines.Text(), "} ")
		if !strings.HasPrefix(series, "strata_volume_connections_total{") {
			continue
		}
		if _, err := fmt.Sscan(value, &n); err != nil {
			s.t.Fatalf("metrics: %q: %v", lines.Text(), err)
		}
		sum += n
	}
	if err := lines.Err(); err != nil {
		s.t.Fatal(err)
	}
	return sum
}

func dialUnix(ctx context.Context, path string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *cluster) addController(netns string, args ...string) {
	c.t.Helper()
	socket := filepath.Join(c.dir, "controller.sock")
	args = append([]string{"controller", "--endpoint", "unix://" + socket, "--pools", c.pools, "-v", "4"}, args...)
	c.controller = newServer(c.t, newProcess(c.t, c.dir, "controller", netns, args...), socket)
}

// addNode starts a node. It lives in the guest's own network namespace: the kernel
// offers NBD nowhere else.
func (c *cluster) addNode(name string, args ...string) *server {
	c.t.Helper()
	state := filepath.Join(c.dir, "node-"+name)
	socket := filepath.Join(c.dir, name+".sock")
	args = append([]string{"node", "--endpoint", "unix://" + socket, "--pools", c.pools, "--node-id", name,
		"--state", state, "-v", "4"}, args...)
	c.nodes[name] = newServer(c.t, newProcess(c.t, c.dir, name, "", args...), socket)
	return c.nodes[name]
}

func newServer(t *testing.T, p *process, socket string) *server {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &server{process: p, socket: socket, conn: conn}
	s.start()
	s.ready()
	return s
}

// ready waits until the process answers Probe with yes.
func (s *server) ready() {
	s.t.Helper()
	eventually(s.t, time.Minute, s.name+" is ready", func(ctx context.Context) error {
		if err := s.alive(); err != nil {
			return err
		}
		r, err := csi.NewIdentityClient(s.conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		if r.GetReady() != nil && !r.GetReady().GetValue() {
			return errors.New("not ready")
		}
		return nil
	})
}

// ended checks, once all volumes are gone, that nothing is left of them: on the nodes,
// in the kernel, in the stores.
func (c *cluster) ended() {
	c.t.Helper()
	if left := ourDevices(c.t); len(left) > 0 {
		c.t.Errorf("devices are left: %v", left)
	}
	if left := mountsBelow(c.t, c.dir); len(left) > 0 {
		c.t.Errorf("mounts are left: %v", left)
	}
	for _, s := range c.stores {
		if !s.running() {
			continue
		}
		if out := c.strata(s, "ls", "--long", "--format", "json"); strings.TrimSpace(out) != "[]" {
			c.t.Errorf("%s holds after all was deleted: %s", s.name, out)
		}
		if out := c.strata(s, "publications", "--format", "json"); strings.TrimSpace(out) != "[]" {
			c.t.Errorf("publications of %s after all were taken back: %s", s.name, out)
		}
		c.strata(s, "check") // fails by its exit code
	}
}

// strata runs a verb of the operator's tool against a store.
func (c *cluster) strata(s *storeHost, args ...string) string {
	c.t.Helper()
	return tool(c.t, os.Getenv("STRATA_BIN"), append([]string{"--store", filepath.Join(s.data, "api.sock")}, args...)...)
}
