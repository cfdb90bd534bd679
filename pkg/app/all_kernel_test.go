//go:build kernelnbd

package app

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// hostEnv names the directory of the host that a helper process serves.
const hostEnv = "STRATA_APP_TEST_HOST"

// host is a machine that runs strata all, in a process of its own as it is meant to be:
// what marks the threads of a process waits for all of them, and one that waits for a
// device that this very process serves would never come.
type host struct {
	t   *testing.T
	dir string
	end func()
}

func hostConfig(dir string) AllConfig {
	return AllConfig{
		Store: Config{Data: filepath.Join(dir, "data")},
		Node: NodeConfig{
			Node: "host", State: filepath.Join(dir, "node"), Endpoint: "unix://" + filepath.Join(dir, "csi.sock"),
			RegistrationDir: filepath.Join(dir, "registry"), Web: Web{Address: "127.0.0.1:9876"},
		},
	}
}

// TestServeAll is not a test but the helper process. It asks for the right of an I/O
// flusher, which root in a guest has.
func TestServeAll(t *testing.T) {
	dir := os.Getenv(hostEnv)
	if dir == "" {
		return
	}
	cfg := hostConfig(dir)
	_, err := os.Stat(cfg.Store.Data)
	cfg.Store.Init = errors.Is(err, os.ErrNotExist)
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	cfg.Node.Ready = func() { os.Stdout.WriteString("ready\n") }
	if err := All(ctx, cfg); err != nil {
		t.Error(err)
	}
}

// start runs the process until end is called.
func (h *host) start() {
	h.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeAll$")
	cmd.Env = append(os.Environ(), hostEnv+"="+h.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		h.t.Log(lines.Text())
	}
	h.end = func() {
		h.end = func() {}
		err := cmd.Process.Signal(syscall.SIGTERM)
		for lines.Scan() { // until it ends
			if line := lines.Text(); line != "PASS" {
				h.t.Log(line)
			}
		}
		if err := errors.Join(err, cmd.Wait()); err != nil {
			h.t.Errorf("all: %v", err)
		}
	}
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir()}
	h.start()
	t.Cleanup(func() { h.end() })
	return h
}

func (h *host) image(name string, size int64) {
	h.t.Helper()
	c, err := storeapi.Dial(filepath.Join(h.dir, "data"), storeapi.DialOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Create(h.t.Context(), store.Spec{Name: name, Size: size}); err != nil {
		h.t.Fatal(err)
	}
}

func TestMappedDeviceOutlivesTheProcess(t *testing.T) {
	h := newHost(t)
	h.image("alice", 64<<20)
	control := NewControl(hostConfig(h.dir).Node.State)
	m, err := control.Map(t.Context(), "", "alice", false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := control.Map(t.Context(), "default", "alice", false)
	if err != nil || again.Device != m.Device {
		t.Errorf("mapped again: %+v, %v; want %s", again, err, m.Device)
	}
	dev, err := os.OpenFile(m.Device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	want := bytes.Repeat([]byte("strata!\n"), 1<<17)
	if _, err := dev.WriteAt(want, 4096); err != nil {
		t.Fatal(err)
	}

	h.end()
	written := make(chan error, 1)
	go func() { // waits for the store, and must not fail
		_, err := dev.WriteAt(want, 8<<20)
		written <- errors.Join(err, dev.Sync())
	}()
	h.start()
	if err := <-written; err != nil {
		t.Errorf("write across the restart: %v", err)
	}
	got := make([]byte, len(want))
	for _, off := range []int64{4096, 8 << 20} {
		if _, err := dev.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("content at %d differs, %v", off, err)
		}
	}
	all, err := control.Mapped(t.Context())
	if err != nil || len(all) != 1 || all[0].Device != m.Device || all[0].Problem != "" {
		t.Errorf("mapped: %+v, %v", all, err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if err := control.Unmap(t.Context(), "alice"); err != nil {
		t.Errorf("unmap: %v", err)
	}
	if err := control.Unmap(t.Context(), "alice"); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "alice") {
		t.Errorf("unmap again: %v", err)
	}
	if all, err = control.Mapped(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("after unmap: %+v, %v", all, err)
	}
}

func TestAllTellsOfItself(t *testing.T) {
	newHost(t)
	resp, err := http.Get("http://127.0.0.1:9876/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{`strata_build_info{process="all"`, "strata_node_", "strata_store_up 1"} {
		if !strings.Contains(string(body), name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
}
