//go:build kernelnbd

package scenario

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/kernellog"
)

// kernelLog reads what the kernel says from its opening on.
type kernelLog struct{ fd int }

func openKernelLog(t *testing.T) *kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open the kernel's log: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		t.Fatalf("go to the end of the kernel's log: %v", err)
	}
	return &kernelLog{fd: fd}
}

// lines returns what has come since the last call.
func (k *kernelLog) lines(t *testing.T) []string {
	t.Helper()
	var all []string
	record := make([]byte, 8192)
	for {
		n, err := unix.Read(k.fd, record)
		switch {
		case errors.Is(err, syscall.EPIPE):
			t.Error("the kernel's log was overwritten before it was read")
		case errors.Is(err, syscall.EAGAIN):
			return all
		case err != nil:
			t.Fatalf("read the kernel's log: %v", err)
		default:
			_, text, _ := strings.Cut(string(record[:n]), ";")
			text, _, _ = strings.Cut(text, "\n")
			all = append(all, text)
		}
	}
}

// clean fails the test when the kernel has told of a fault since the last call.
func (k *kernelLog) clean(t *testing.T) {
	t.Helper()
	if faults := kernellog.Faults(k.lines(t)); len(faults) > 0 {
		t.Errorf("%d faults in the kernel's log:\n%s", len(faults), strings.Join(faults[:min(len(faults), 20)], "\n"))
	}
}

// ourDevices returns the NBD devices that strata has connected, by what the kernel says.
func ourDevices(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/nbd*/backend")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), "strata:") {
			found = append(found, filepath.Base(filepath.Dir(f)))
		}
	}
	return found
}

// mountsBelow returns the mount points below dir.
func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			found = append(found, f[1])
		}
	}
	return found
}
