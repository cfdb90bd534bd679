//go:build kernelnbd

package sanity

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSanity runs all of csi-sanity, in mount and in block mode, against one process
// that is store, controller and node. It is a process of its own: one that serves the
// devices on which it waits could wait for ever.
func TestSanity(t *testing.T) {
	bin := os.Getenv("STRATA_BIN")
	if bin == "" {
		t.Fatal("STRATA_BIN does not name the strata binary; see doc.go")
	}
	dir := t.TempDir()
	d := target{controller: filepath.Join(dir, "csi.sock"), data: filepath.Join(dir, "data")}
	d.node = d.controller
	cmd := exec.Command(bin, "all", "--data", d.data, "--init", "--endpoint", "unix://"+d.controller,
		"--state", filepath.Join(dir, "node"), "--node-id", "sanity", "--nbd-range", "64-71")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("strata all: %v", err)
		}
		left, err := filepath.Glob("/sys/block/nbd*/pid")
		if err != nil || len(left) > 0 {
			t.Errorf("devices are left: %v, %v", left, err)
		}
	})
	run(t, d, nil, "mount", "block")
}
