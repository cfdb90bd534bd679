package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// Kind of a guest.
type Kind string

// Kinds of guests.
const (
	// UML is user-mode-linux: boots in two seconds, one CPU, native speed but for
	// system calls.
	UML Kind = "uml"
	// QEMU is Debian's kernel on hardware emulated in software, with two CPUs.
	QEMU Kind = "qemu"
)

// Machine describes a guest. The zero value of each field but Kind is a fair default.
type Machine struct {
	Kind Kind
	// MemoryMiB is the guest's memory (1024).
	MemoryMiB int
	// CPUs of a QEMU guest (2).
	CPUs int
	// DiskBytes is the size of a disk for wire.Scratch; 0: a tmpfs. The disk is a
	// sparse file that is gone with the guest.
	DiskBytes int64
	// DiskFS is what the disk is formatted with (ext4).
	DiskFS string
	// Modules are loaded before the command, each with its parameters (nbd and tls).
	// Others are loaded by the kernel when they are asked for.
	Modules []string
	// Accel of a QEMU guest: tcg (the default), or kvm for speed where that works.
	Accel string
}

// Command is what a guest runs.
type Command struct {
	// Args are the program and its arguments. The guest has the host's tree as its
	// root, so every program of the host can be run; a path must be absolute.
	Args []string
	// Env is added to PATH, HOME, USER, LANG and TMPDIR.
	Env []string
	// Dir is the working directory (/).
	Dir string
	// Timeout bounds the command, not the boot (5 minutes).
	Timeout time.Duration
}

// Result is how a guest ended.
type Result struct {
	// Code is the command's exit code; 128 and the signal's number if one ended it,
	// wire.TimeoutCode if its time was up.
	Code int
	// Kernel is the kernel's log, one element a line.
	Kernel []string
	// Notes are what the first process had to say, such as the reason of a timeout.
	Notes []string
	// Boot is the time until the guest's first process spoke; Total until the end.
	Boot, Total time.Duration
}

// bootTimeout bounds the time until the first process of the guest speaks.
const bootTimeout = 3 * time.Minute

// offTimeout bounds the time from the exit code until the machine is off.
const offTimeout = 20 * time.Second

// Run boots a machine, runs one command in it, and copies to output what it writes.
// It returns when the machine is off. An error means that the machine failed, not the
// command. When ctx ends the machine is switched off hard.
func Run(ctx context.Context, m Machine, c Command, output io.Writer) (Result, error) {
	dir, err := os.MkdirTemp("", "strata-guest-")
	if err != nil {
		return Result{}, fmt.Errorf("run guest: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	m, c = m.withDefaults(), c.withDefaults()
	var line []string
	switch m.Kind {
	case UML:
		line, err = umlCommand(ctx, dir, m, c)
	case QEMU:
		line, err = qemuCommand(ctx, dir, m, c)
	default:
		err = fmt.Errorf("%q is not a kind of guest: use %q or %q", m.Kind, UML, QEMU)
	}
	if err != nil {
		return Result{}, fmt.Errorf("run guest: %w", err)
	}
	res, err := boot(ctx, line, c.Timeout, output)
	if err != nil {
		return res, fmt.Errorf("run %s guest: %w", m.Kind, err)
	}
	return res, nil
}

func (m Machine) withDefaults() Machine {
	if m.MemoryMiB == 0 {
		m.MemoryMiB = 1024
	}
	if m.CPUs == 0 {
		m.CPUs = 2
	}
	if m.DiskFS == "" {
		m.DiskFS = "ext4"
	}
	if m.Modules == nil {
		m.Modules = []string{"nbd", "tls"}
	}
	return m
}

func (c Command) withDefaults() Command {
	base := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LANG=C.UTF-8", "TMPDIR=" + wire.Scratch,
		"STRATA_GUEST=1",
	}
	c.Env = append(base, c.Env...)
	if c.Dir == "" {
		c.Dir = "/"
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Minute
	}
	return c
}

var errNoExit = errors.New("the guest ended without an exit code")

// boot runs the emulator until the machine is off. Its standard output is the guest's
// console, its descriptor 3 the stream of frames.
func boot(ctx context.Context, line []string, timeout time.Duration, output io.Writer) (Result, error) {
	begin := time.Now()
	r, w, err := os.Pipe()
	if err != nil {
		return Result{}, fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	// The guest bounds the command by itself and tells why; this is for a dead guest.
	ctx, cancel := context.WithTimeout(ctx, bootTimeout+timeout+30*time.Second)
	defer cancel()

	console := new(tail)
	ended, err := start(func(own bool) *exec.Cmd { return emulator(ctx, line, own, console, w) })
	_ = w.Close()
	if err != nil {
		return Result{}, err
	}

	late := time.AfterFunc(bootTimeout, cancel)
	defer late.Stop()
	in := &receiver{output: output, begin: begin, alive: func() { late.Stop() }}
	// Off within seconds of the last frame, or it hangs in its shutdown, which is no
	// matter then.
	in.last = func() { time.AfterFunc(offTimeout, cancel) }
	readErr := in.run(r)
	res, gotExit := in.res, in.exit
	if readErr != nil {
		cancel()
	}
	waitErr := <-ended
	res.Total = time.Since(begin)
	if gotExit {
		return res, readErr
	}
	return res, fmt.Errorf("failed after %v: %w\nlast lines of its console:\n%s\nlast lines of its log:\n%s",
		res.Total.Round(time.Second), errors.Join(errNoExit, readErr, waitErr, context.Cause(ctx)), console, lastLines(res.Kernel, 30))
}

// emulator is the command that runs line, in a process namespace of its own or not.
// User-mode-linux has many processes: a namespace lets none of them outlive its first,
// which is a shell because the first process of a namespace takes no signals.
func emulator(ctx context.Context, line []string, own bool, console io.Writer, frames *os.File) *exec.Cmd {
	if own {
		line = append([]string{"/bin/sh", "-c", `"$@"; exit $?`, "guest"}, line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{frames}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if own {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// start starts the emulator, in a process namespace where that is allowed. The thread
// that starts it lives as long as it: the thread's death is what Pdeathsig looks at.
func start(emulator func(own bool) *exec.Cmd) (<-chan error, error) {
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := emulator(true)
		err := cmd.Start()
		if errors.Is(err, syscall.EPERM) {
			cmd = emulator(false)
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}

// receiver takes in what the guest says.
type receiver struct {
	output io.Writer
	begin  time.Time
	alive  func() // called at the first frame
	last   func() // called at the last
	res    Result
	exit   bool
}

// run reads frames until the end of the machine.
func (in *receiver) run(r io.Reader) error {
	for {
		kind, p, err := wire.ReadFrame(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if in.res.Boot == 0 {
			in.res.Boot = time.Since(in.begin)
			in.alive()
		}
		if err := in.take(kind, p); err != nil {
			return err
		}
	}
}

func (in *receiver) take(kind wire.Kind, p []byte) error {
	switch kind {
	case wire.Output:
		if _, err := in.output.Write(p); err != nil {
			return fmt.Errorf("pass output on: %w", err)
		}
	case wire.Kernel:
		in.res.Kernel = append(in.res.Kernel, string(p))
	case wire.Note:
		in.res.Notes = append(in.res.Notes, string(p))
	case wire.Exit:
		code, err := strconv.Atoi(string(p))
		if err != nil {
			return fmt.Errorf("read exit code: %w", err)
		}
		in.res.Code, in.exit = code, true
		in.last()
	}
	return nil
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 16<<10; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

func lastLines(lines []string, n int) string {
	var b bytes.Buffer
	for _, l := range lines[max(0, len(lines)-n):] {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// cacheDir returns a folder of the cache outside the repository, made if missing.
func cacheDir(name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache: %w", err)
	}
	dir := filepath.Join(base, "strata", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	return dir, nil
}
