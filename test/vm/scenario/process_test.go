//go:build kernelnbd

package scenario

import (
	"bytes"
	"context"
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
)

// process is one of the real processes, started again as often as it is killed.
type process struct {
	t    *testing.T
	name string
	// netns is the network namespace it lives in, "" for the guest's own.
	netns string
	args  []string
	env   []string
	log   string

	cmd  *exec.Cmd
	done chan struct{}
}

// newProcess prepares `strata args…`; its output goes to a file of that name in dir.
// It is ended with the test, and what it said last is shown if the test has failed.
func newProcess(t *testing.T, dir, name, netns string, args ...string) *process {
	p := &process{t: t, name: name, netns: netns, args: args, log: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		if t.Failed() {
			// Its log tells at the end what waits in the kernel.
			_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
		}
		p.stop()
		if t.Failed() {
			t.Logf("last lines of %s:\n%s", name, p.tail(60))
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	line := append([]string{os.Getenv("STRATA_BIN")}, p.args...)
	if p.netns != "" {
		line = append([]string{"ip", "netns", "exec", p.netns}, line...)
	}
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.done = make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.done) }()
}

// kill ends the process as a crash would and returns when it is gone.
func (p *process) kill() {
	p.t.Helper()
	if !p.running() {
		p.t.Fatalf("%s has ended by itself: %s", p.name, p.tail(20))
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// stop ends the process in order, and hard if that takes too long.
func (p *process) stop() {
	if !p.running() {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(45 * time.Second):
		p.t.Errorf("%s did not stop in 45 s", p.name)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
}

func (p *process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// alive is an error once the process has ended.
func (p *process) alive() error {
	if !p.running() {
		return fmt.Errorf("%s has ended: %s", p.name, p.tail(10))
	}
	return nil
}

// tail returns the last lines that the process wrote, without the beginnings of calls and
// those that were told to come again: there may be very many.
func (p *process) tail(n int) string {
	b, err := os.ReadFile(p.log)
	if errors.Is(err, os.ErrNotExist) {
		return "(nothing)"
	}
	lines := slices.DeleteFunc(strings.Split(string(bytes.TrimSpace(b)), "\n"), func(l string) bool {
		return strings.Contains(l, `"Call" logger`) || strings.Contains(l, `code="Aborted"`)
	})
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		lines[i] = l[:min(len(l), 400)]
	}
	return strings.Join(lines, "\n")
}

func (p *process) pid() string { return strconv.Itoa(p.cmd.Process.Pid) }

// memory is the process' resident memory in bytes.
func (p *process) memory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(b), &total, &resident); err != nil {
		p.t.Fatalf("statm %q: %v", b, err)
	}
	return resident * int64(os.Getpagesize())
}

// tool runs a program that must succeed and returns what it wrote.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// quiet runs a program; the error holds what it wrote.
func quiet(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
