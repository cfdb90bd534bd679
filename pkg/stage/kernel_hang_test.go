//go:build kernelnbd

package stage_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	helperDevice = "STRATA_STAGE_TEST_DEVICE"
	helperGroup  = "STRATA_STAGE_TEST_GROUP"
)

// TestKernelHungProgramHelper is the node's process in TestKernelHungProgram: it reads a
// device by a program, as the probe does.
func TestKernelHungProgramHelper(t *testing.T) {
	device := os.Getenv(helperDevice)
	if device == "" {
		t.Skip("is run by TestKernelHungProgram")
	}
	p, err := stage.NewPrograms(t.Context(), os.Getenv(helperGroup))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Command("dd", "if="+device, "of=/dev/null", "bs=4096", "count=1", "iflag=direct").CombinedOutput()
	t.Fatalf("the program has ended: %v: %s", err, out)
}

// cgroup makes a control group for a test.
func cgroup(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// hanging finds the process of dd in a group that waits for a device, "" if there is none.
func hanging(group string) string {
	pids, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	for pid := range strings.FieldsSeq(string(pids)) {
		stat, _ := os.ReadFile("/proc/" + pid + "/stat")
		if strings.Contains(string(stat), "(dd) D ") {
			return pid
		}
	}
	return ""
}

// A program hangs on a device whose store is away, and the node's process is killed, as a
// container is. Its group is free at once, since the program is in another; the next
// process then brings the link back, which ends the program. (Where it waits in a read
// that cannot be interrupted it would keep the group busy; in an open it can be killed.)
func TestKernelHungProgram(t *testing.T) {
	box, group := cgroup(t, "strata-test-container"), cgroup(t, "strata-test-programs")
	h := newHost(t, "unix", func(c *stage.Config) { c.Exec, c.Mounter, c.ProgramGroup = nil, nil, group })
	req := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{Block: true})
	h.must(h.svc.Stage(t.Context(), req))
	v, _ := h.volume(req.Volume)
	h.close()
	h.must(h.kernel.Close(t.Context()))
	h.kill()

	leader := h.contained(box, v.Device, group)
	h.until("the program hangs", func() bool { return hanging(group) != "" })
	if inside := members(t, box); !slices.Equal(inside, []string{strconv.Itoa(leader.Process.Pid)}) {
		t.Errorf("in the container's group are %v, want the leader %d alone", inside, leader.Process.Pid)
	}
	h.must(leader.Process.Kill())
	var exit *exec.ExitError
	if err := leader.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Errorf("the leader ended with %v, want by a signal", err)
	}
	// What a runtime does next: end what is left, and remove the group.
	h.must(os.WriteFile(filepath.Join(box, "cgroup.kill"), []byte("1"), 0))
	h.until("the container's group is removed", func() bool { return unix.Rmdir(box) == nil })

	h.start("unix")
	h.newKernel()
	h.open()
	h.until("the program has ended", func() bool { return hanging(group) == "" })
	if n := h.count(stage.Ungrouped); n > 0 {
		t.Errorf("events: %v", h.kinds())
	}
	h.must(h.svc.Unstage(t.Context(), req.Volume, req.Path))
}

// members lists the processes of a group.
func members(t *testing.T, group string) []string {
	t.Helper()
	pids, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(pids))
}

// contained starts the helper in a control group, as a container's first process.
func (h *host) contained(box, device, group string) *exec.Cmd {
	h.t.Helper()
	dir, err := os.Open(box)
	h.must(err)
	defer dir.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKernelHungProgramHelper$")
	cmd.Env = append(os.Environ(), helperDevice+"="+device, helperGroup+"="+group)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	h.must(cmd.Start())
	return cmd
}

// forget removes the record of a volume, as the loss of a disk does.
func (h *host) forget(volume string) {
	h.t.Helper()
	records, err := filepath.Glob(filepath.Join(h.Dir, "node", "*.json"))
	h.must(err)
	for _, path := range records {
		text, err := os.ReadFile(path)
		h.must(err)
		if strings.Contains(string(text), volume) {
			h.must(os.Remove(path))
		}
	}
}

// A device without a record that nobody has opened, so that its partitions were never
// read, does not answer: that keeps no other volume from its link.
func TestKernelOrphanHangs(t *testing.T) {
	h, ctx := newHost(t, "unix", func(c *stage.Config) { c.Exec, c.Mounter, c.CallTimeout = nil, nil, 5*time.Second }), t.Context()
	raw := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{Block: true})
	h.must(h.svc.Stage(ctx, raw))
	other := h.create(store.Spec{Name: "b", Size: 64 * mib}, stage.Capability{})
	h.must(h.svc.Stage(ctx, other))
	h.close()
	h.must(h.kernel.Close(ctx))
	h.kill()
	h.forget(raw.Volume)
	h.newKernel()
	opened := make(chan error, 1)
	go func() { opened <- h.tryOpen() }()
	select {
	case err := <-opened:
		h.must(err)
	case <-time.After(6 * patience): // on a busy machine it is just slow
		t.Fatal("the start of the node's process hangs")
	}
	wantErr(t, h.await(stage.Orphan, "").Err, store.ErrUnavailable, "does not answer")
	h.start("unix")
	h.await(stage.LinkBack, other.Volume)
	// The operator ends it.
	devices, err := h.kernel.Find(ctx, fmt.Sprintf("strata:%s:%d", raw.Ticket.Image, raw.Ticket.Epoch))
	h.must(err)
	if len(devices) != 1 {
		t.Fatalf("devices %v", devices)
	}
	h.must(h.kernel.Disconnect(ctx, devices[0]))
	h.until("the look at it has ended", func() bool { return h.count(stage.Orphan) == 2 })
}
