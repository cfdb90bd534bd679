//go:build kernelnbd

package sanity

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// strata starts the binary that STRATA_BIN names, which must end in order with the test.
func strata(t *testing.T, args ...string) {
	t.Helper()
	bin := os.Getenv("STRATA_BIN")
	if bin == "" {
		t.Fatal("STRATA_BIN does not name the strata binary; see doc.go")
	}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("strata %s: %v", args[0], err)
		}
	})
}

// wantNoDevices checks at the end of the test, after all that is started later has ended,
// that the kernel has none connected.
func wantNoDevices(t *testing.T) {
	t.Cleanup(func() {
		left, err := filepath.Glob("/sys/block/nbd*/pid")
		if err != nil || len(left) > 0 {
			t.Errorf("devices are left: %v, %v", left, err)
		}
	})
}
