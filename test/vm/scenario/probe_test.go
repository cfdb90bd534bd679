//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A device whose reads fail during the probe tells nothing, least of all that it is
// empty: it is refused, not formatted, and its content is there when the reads work
// again. nbdkit stands between node and store and fails the reads.
func TestProbeErrorsNeverFormat(t *testing.T) {
	for name, fault := range map[string]string{
		"every read":             "error-pread-rate=100%",
		"one read in two":        "error-pread-rate=50%",
		"reads and block status": "error-pread-rate=100% error-extents-rate=100%",
	} {
		for _, fresh := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/fresh=%t", name, fresh), func(t *testing.T) { probeFails(t, strings.Fields(fault), fresh) })
		}
	}
}

func probeFails(t *testing.T, fault []string, fresh bool) {
	r, c := random(t), newCluster(t)
	s := c.addStore("store", "")
	// The node finds the store's sockets in a directory of ours.
	near := filepath.Join(c.dir, "near")
	c.mkdir(near)
	for _, f := range []string{"api.sock", "nbd.sock"} {
		if err := os.Symlink(filepath.Join(s.data, f), filepath.Join(near, f)); err != nil {
			t.Fatal(err)
		}
	}
	c.writePools(fmt.Sprintf("pools:\n  - name: default\n    backend: layered\n    members: [\"unix:%[1]s/api.sock\"]\n    local: %[1]s\n", near))
	c.addController("")
	c.addNode("n1")

	v := c.create("precious", 512*mib, fsVolume("ext4"), nil, nil)
	var sum string
	if !fresh {
		sum = writeFile(t, filepath.Join(c.up(v, "n1"), "data"), 4*mib, r)
		c.down(v, "n1")
	}
	before := c.content(s, "precious")
	c.interpose(near, s, fault)
	c.attach(v, "n1")
	c.mkdir(c.staging(v, "n1"))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.node("n1").NodeStageVolume(ctx, c.stageRequest(v, "n1"))
		cancel()
		if err == nil && len(fault) == 1 && strings.HasSuffix(fault[0], "=50%") {
			// By chance no read of the probe failed, and then there is nothing to say.
			call(t, drop(c.node("n1").NodeUnstageVolume), c.unstageRequest(v, "n1"))
			continue
		}
		if code := status.Code(err); code == codes.OK || code == codes.Internal {
			t.Errorf("NodeStageVolume of a device whose reads fail = %v", err)
		}
		t.Logf("NodeStageVolume: %v", err)
		if left := ourDevices(t); len(left) > 0 {
			t.Errorf("the failed stage left %v", left)
		}
	}
	c.detach(v, "n1")
	if after := c.content(s, "precious"); after != before && !(fresh && strings.HasSuffix(fault[0], "=50%")) {
		t.Error("the content has changed while it could not be read")
	}
	relink(t, filepath.Join(s.data, "nbd.sock"), filepath.Join(near, "nbd.sock"))
	at := c.up(v, "n1")
	if !fresh {
		if got := sumFile(t, filepath.Join(at, "data")); got != sum {
			t.Errorf("the file is %s; written was %s", got, sum)
		}
	}
	c.down(v, "n1")
	c.remove(v)
	c.ended()
}

// interpose puts nbdkit in the place of the store's socket.
func (c *cluster) interpose(near string, s *storeHost, fault []string) {
	c.t.Helper()
	socket := filepath.Join(c.dir, "faulty.sock")
	args := append([]string{"--foreground", "--exit-with-parent", "-U", socket, "--filter=error", "nbd", "socket=" + filepath.Join(s.data, "nbd.sock"),
		"dynamic-export=true", "error=EIO"}, fault...)
	cmd := exec.Command("nbdkit", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(c.t, time.Minute, "nbdkit serves", func(ctx context.Context) error { return dialUnix(ctx, socket) })
	relink(c.t, socket, filepath.Join(near, "nbd.sock"))
}

func relink(t *testing.T, to, link string) {
	t.Helper()
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, link); err != nil {
		t.Fatal(err)
	}
}

// content is the sum of an image's bytes, of one that nobody uses.
func (c *cluster) content(s *storeHost, name string) string {
	c.t.Helper()
	file := filepath.Join(c.dir, "content.img")
	defer os.Remove(file)
	c.copyOut(s, name, file)
	return sumFile(c.t, file)
}
