package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
)

// A program that waits for a device whose store is away cannot be killed. Were it in the
// control group of this process' container, the container could not be started anew, and
// nobody would bring the device back: runc (from 1.2 on) does not delete a container
// whose group it cannot remove, containerd's CRI goes on calling the container running
// until that has succeeded, and kubelet starts no other beside a running one. (runc:
// destroy in libcontainer/state_linux.go; containerd: handleContainerExit in
// internal/cri/server/events.go.) So programs are started in a group outside of it.
//
// Nobody but this process ends them then, so those of an earlier one are ended first:
// their volumes are examined anew, and two mkfs must not meet.

// programs starts programs in a control group of their own; in the process' own if group
// is "". Safe for concurrent use.
type programs struct {
	group string // directory of cgroup v2
}

var _ utilexec.Interface = (*programs)(nil)

// restLimit is how long programs of an earlier process are waited for. Those that hang on
// a device end when it has its link again, which is for later.
const restLimit = 2 * time.Second

// newPrograms prepares the group, and ends what an earlier process has left running in
// it. If there cannot be one, why says so and programs are started without.
func newPrograms(ctx context.Context, group string) (p *programs, why error) {
	if group == "" {
		return new(programs), nil
	}
	p = &programs{group: filepath.Clean(group)}
	if err := p.endRest(ctx); err != nil {
		return new(programs), fmt.Errorf("start programs in control group %s: %w", group, err)
	}
	// A container in a cgroup namespace of its own sees the group and may not enter it.
	if err := p.CommandContext(ctx, "true").Run(); err != nil {
		return new(programs), fmt.Errorf("start a program in control group %s: %w", group, err)
	}
	return p, nil
}

// enter opens the group, and makes it if it is not there: whoever tidies up may remove it
// while it is empty.
func (p *programs) enter() (*os.File, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(p.group), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", filepath.Dir(p.group), err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("%s is no cgroup v2 file system: %w", filepath.Dir(p.group), errors.ErrUnsupported)
	}
	if err := os.Mkdir(p.group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.Open(p.group)
}

// endRest kills what is in the group and waits a little for its end. It leaves cgroup.kill
// alone: Linux since early 2025, 6.1 as well, may kill whatever is cloned into a group
// that was ever ended by it.
func (p *programs) endRest(ctx context.Context) error {
	dir, err := p.enter()
	if err != nil {
		return err
	}
	if err := dir.Close(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restLimit)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		list, err := os.ReadFile(filepath.Join(p.group, "cgroup.procs"))
		if err != nil || len(bytes.TrimSpace(list)) == 0 {
			return err
		}
		for field := range strings.FieldsSeq(string(list)) {
			// A process of another pid namespace is shown as 0.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Command implements utilexec.Interface.
func (p *programs) Command(name string, args ...string) utilexec.Cmd {
	return p.CommandContext(context.Background(), name, args...)
}

// CommandContext implements utilexec.Interface.
func (p *programs) CommandContext(ctx context.Context, name string, args ...string) utilexec.Cmd {
	return &program{cmd: exec.CommandContext(ctx, name, args...), in: p} // #nosec G204 -- the callers' programs
}

// LookPath implements utilexec.Interface.
func (*programs) LookPath(file string) (string, error) {
	path, err := exec.LookPath(file)
	return path, programError(err)
}

// program is a run of one.
type program struct {
	cmd *exec.Cmd
	in  *programs
}

// programError makes errors what users of utilexec look for.
func programError(err error) error {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return &utilexec.ExitErrorWrapper{ExitError: exit}
	case errors.Is(err, exec.ErrNotFound):
		return utilexec.ErrExecutableNotFound
	}
	return err
}

// Start implements utilexec.Cmd.
func (c *program) Start() error {
	if c.in.group != "" {
		group, err := c.in.enter()
		if err != nil {
			return fmt.Errorf("control group for %s: %w", c.cmd.Path, err)
		}
		defer group.Close()
		c.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	}
	return programError(c.cmd.Start())
}

// Wait implements utilexec.Cmd.
func (c *program) Wait() error { return programError(c.cmd.Wait()) }

// Run implements utilexec.Cmd.
func (c *program) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// CombinedOutput implements utilexec.Cmd.
func (c *program) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.cmd.Stdout, c.cmd.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Output implements utilexec.Cmd.
func (c *program) Output() ([]byte, error) {
	var out bytes.Buffer
	c.cmd.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// SetDir implements utilexec.Cmd.
func (c *program) SetDir(dir string) { c.cmd.Dir = dir }

// SetStdin implements utilexec.Cmd.
func (c *program) SetStdin(in io.Reader) { c.cmd.Stdin = in }

// SetStdout implements utilexec.Cmd.
func (c *program) SetStdout(out io.Writer) { c.cmd.Stdout = out }

// SetStderr implements utilexec.Cmd.
func (c *program) SetStderr(out io.Writer) { c.cmd.Stderr = out }

// SetEnv implements utilexec.Cmd.
func (c *program) SetEnv(env []string) { c.cmd.Env = env }

// StdoutPipe implements utilexec.Cmd.
func (c *program) StdoutPipe() (io.ReadCloser, error) { return c.cmd.StdoutPipe() }

// StderrPipe implements utilexec.Cmd.
func (c *program) StderrPipe() (io.ReadCloser, error) { return c.cmd.StderrPipe() }

// Stop implements utilexec.Cmd. The program is asked to end, and not waited for.
func (c *program) Stop() {
	if c.cmd.Process != nil {
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
}
