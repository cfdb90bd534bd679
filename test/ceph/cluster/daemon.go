package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Daemon names a process of the cluster.
type Daemon string

// Daemons.
const (
	Mon Daemon = "mon.a"
	OSD Daemon = "osd.0"
)

// graceful is how long a daemon may take to end in order; an OSD in memory writes all its
// data to disk then.
const graceful = 60 * time.Second

// daemon is one process, started again as often as it ends. Safe for concurrent use.
type daemon struct {
	name Daemon
	line []string
	env  []string
	dir  string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	want bool          // it was not told to end
}

// start starts the process. The thread that starts it lives as long as it, since that
// thread's death is what the parent-death signal looks at.
func (d *daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running() {
		return fmt.Errorf("start %s: it runs already", d.name)
	}
	out, err := os.OpenFile(d.outputPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	cmd := exec.Command(d.line[0], d.line[1:]...)
	cmd.Env, cmd.Dir = d.env, d.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		_ = out.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	d.cmd, d.done, d.want = cmd, done, true
	return nil
}

// running is called with mu held.
func (d *daemon) running() bool {
	if d.done == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// signal sends sig; told means that the process is expected to end by it. It returns
// what is closed when the process has ended.
func (d *daemon) signal(sig syscall.Signal, told bool) (<-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		done := make(chan struct{})
		close(done)
		return done, nil
	}
	if told {
		d.want = false
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return d.done, fmt.Errorf("signal %s: %w", d.name, err)
	}
	return d.done, nil
}

// kill ends the process as a crash would and returns when it is gone.
func (d *daemon) kill() error {
	done, err := d.signal(syscall.SIGKILL, true)
	if err != nil {
		return err
	}
	<-done
	return nil
}

// stop ends the process in order; hard, and with an error, if it does not.
func (d *daemon) stop(ctx context.Context) error {
	done, err := d.signal(syscall.SIGTERM, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, graceful)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop %s: %w\n%s", d.name, ctx.Err(), d.tail()), d.kill())
	}
}

// alive is an error if the process has ended without having been told to.
func (d *daemon) alive() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.want || d.running() {
		return nil
	}
	return fmt.Errorf("%s has ended: %s\n%s", d.name, d.cmd.ProcessState, d.tail())
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}

func (d *daemon) outputPath() string { return filepath.Join(d.dir, "log", string(d.name)+".out") }

// tail is the end of what the daemon wrote to its log and to its standard error.
func (d *daemon) tail() string {
	var b strings.Builder
	for _, path := range []string{filepath.Join(d.dir, "log", string(d.name)+".log"), d.outputPath()} {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		lines = lines[max(0, len(lines)-25):]
		for i, l := range lines {
			lines[i] = "  " + l[:min(len(l), 300)]
		}
		fmt.Fprintf(&b, "last lines of %s:\n%s\n", path, strings.Join(lines, "\n"))
	}
	return b.String()
}
