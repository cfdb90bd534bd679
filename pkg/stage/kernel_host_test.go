//go:build kernelnbd

package stage_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/stage/stagetest"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// host is a node with the kernel's NBD, and a store that can be killed and started.
type host struct {
	*rig
	kernel *attach.Kernel
	disk   *memstore.Store
	uuid   string

	mu    sync.Mutex
	reg   *export.Registry // nil while the store is down
	stop  func()
	wrap  func(nbd.Backend) nbd.Backend
	where []nbd.Target
}

func newHost(t *testing.T, network string, tune func(*stage.Config)) *host {
	t.Helper()
	if os.Getenv("STRATA_GUEST") == "" {
		t.Skip("runs in a guest: hack/vm.sh pkg/stage")
	}
	h := &host{disk: memstore.New()}
	st, err := h.disk.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.uuid = st.UUID
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := stagetest.New(dir, true) // for its mounts and programs
	if err != nil {
		t.Fatal(err)
	}
	h.rig = &rig{World: w, t: t, heard: make(chan struct{})}
	h.newKernel()
	t.Cleanup(func() { h.kill() })
	t.Cleanup(func() { h.tearDown() })
	h.start(network)
	h.tune = func(c *stage.Config) {
		c.Kernel, c.Finder, c.Dial = h.kernel, h, h.dial
		c.Tick = 200 * time.Millisecond
		if tune != nil {
			tune(c)
		}
	}
	h.open()
	return h
}

func (h *host) newKernel() {
	h.t.Helper()
	k, err := attach.New(attach.Config{IOTimeout: 2 * time.Second, Poll: time.Second})
	h.must(err)
	h.kernel = k
}

// restartNode is another node process: it holds no sockets.
func (h *host) restartNode() {
	h.t.Helper()
	h.close()
	h.must(h.kernel.Close(h.t.Context()))
	h.newKernel()
	h.open()
}

// tearDown takes everything back, also when a test has failed.
func (h *host) tearDown() {
	if h.svc != nil {
		for _, v := range h.svc.List() {
			h.takeBack(v)
		}
	}
	h.close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	devices, err := h.kernel.Devices(ctx)
	if err != nil || len(devices) > 0 {
		h.t.Errorf("devices %v left (%v)", devices, err)
	}
	for _, d := range devices {
		_ = h.kernel.Disconnect(ctx, d)
	}
	_ = h.kernel.Close(ctx)
}

func (h *host) takeBack(v stage.Volume) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, target := range v.Targets {
		_ = h.svc.Unpublish(ctx, v.Volume, target.Path)
	}
	_ = h.svc.Unstage(ctx, v.Volume, v.Path)
}

// start is the start of the store's process.
func (h *host) start(network string) {
	h.t.Helper()
	address := filepath.Join(h.Dir, "nbd.sock")
	if network == "tcp" {
		address = "127.0.0.1:0" // another each time
	}
	_ = os.Remove(address)
	l, err := net.Listen(network, address)
	h.must(err)
	cut := &cutter{Listener: l}
	reg := export.New(h.disk, export.Config{})
	var backend nbd.Backend = reg
	if h.wrap != nil {
		backend = h.wrap(reg)
	}
	s := nbd.NewServer(backend, nbd.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(ctx, cut) }()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reg, h.where = reg, []nbd.Target{{Network: network, Address: l.Addr().String()}}
	h.stop = func() {
		cut.cut()
		cancel()
		<-ended
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(over)
	}
}

// kill ends the store's process without a word.
func (h *host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != nil {
		h.stop()
		h.stop, h.reg = nil, nil
		h.disk = h.disk.Reopen()
	}
}

// cutter is a listener whose connections can be ended.
type cutter struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// published is the store with the registry's publications.
type published struct {
	*memstore.Store
	*export.Registry
}

func (p published) Publish(ctx context.Context, id store.ID, node string, a store.Access) (store.Publication, error) {
	return p.Registry.Publish(ctx, id, node, a)
}

func (p published) Unpublish(ctx context.Context, id store.ID, node string) error {
	return p.Registry.Unpublish(ctx, id, node)
}

func (p published) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	return p.Registry.Publications(ctx, id)
}

func (p published) Modify(ctx context.Context, id store.ID, c store.Change) (store.Info, error) {
	return p.Store.Modify(ctx, id, c)
}

func (h *host) api() (published, []nbd.Target, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reg == nil {
		return published{}, nil, fmt.Errorf("the store is down: %w", store.ErrUnavailable)
	}
	return published{h.disk, h.reg}, h.where, nil
}

// Find implements stage.Finder.
func (h *host) Find(context.Context, string, string) (stage.Connection, error) {
	p, where, err := h.api()
	return stage.Connection{API: p, Targets: where}, err
}

// Lookup implements stage.Finder.
func (h *host) Lookup(ctx context.Context, _, ref string) (string, store.Info, error) {
	info, err := h.disk.Lookup(ctx, ref)
	return h.uuid, info, err
}

// Each implements stage.Finder.
func (h *host) Each(_ context.Context, fn func(string, stage.API) error) error {
	p, _, err := h.api()
	if err != nil {
		return err
	}
	return fn(h.uuid, p)
}

func (h *host) dial(ctx context.Context, t nbd.Target, name string) (*os.File, nbd.Negotiated, error) {
	return nbd.DialKernel(ctx, nbd.KernelDial{Target: t, Export: name})
}

// create makes an image and asks for it to be staged.
func (h *host) create(spec store.Spec, c stage.Capability) stage.Request {
	h.t.Helper()
	info, err := h.disk.Create(h.t.Context(), spec)
	h.must(err)
	return h.ask(info.ID, store.AccessWrite, c)
}

func (h *host) ask(id store.ID, access store.Access, c stage.Capability) stage.Request {
	h.t.Helper()
	p, err := h.reg.Publish(h.t.Context(), id, "node-1", access)
	h.must(err)
	return stage.Request{
		Volume: "v1:" + string(id), Path: filepath.Join(h.Dir, "staging", string(id)), Capability: c,
		Ticket: stage.Ticket{Pool: "default", Store: h.uuid, Image: p.Target, Epoch: p.Epoch, Token: p.Token, Access: access},
	}
}
