// Package process runs the long-lived programs of a test cluster: each has a file that
// it logs to, is watched for an early end, and is ended by its own process id.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs until it is stopped. Its methods are safe for
// concurrent use.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; set before done is closed
}

// Spec says what to start.
type Spec struct {
	Name string   // of the process in errors and of its log
	Args []string // program and arguments
	Env  []string // added to the environment
	Logs string   // folder for NAME.log, which is appended to
}

// Start starts a program in a process group of its own.
func Start(s Spec) (*Process, error) {
	p := &Process{name: s.Name, log: filepath.Join(s.Logs, s.Name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(s.Args[0], s.Args[1:]...)
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Name returns the name that the process was started under.
func (p *Process) Name() string { return p.name }

// Pid returns the id of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Failed returns an error with the end of the log when the process has ended, and nil
// while it runs.
func (p *Process) Failed() error {
	select {
	case <-p.done:
		how := p.err
		if how == nil {
			how = errors.New("exit status 0")
		}
		return fmt.Errorf("%s ended: %w; its log %s ends:\n%s", p.name, how, p.log, Tail(p.log, 15))
	default:
		return nil
	}
}

// Signal sends a signal to the process alone; one that has ended is no error.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Stop asks the process to end, kills it when it has not after grace, and returns when
// it has ended.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-p.done:
		return nil
	case <-late.C:
	}
	return p.Kill()
}

// Kill ends the process at once and returns when it has ended.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Run runs a program to its end and returns what it wrote to its standard output; an
// error says what it wrote to the other, if anything.
func Run(ctx context.Context, args ...string) (string, error) {
	return Pipe(ctx, nil, args...)
}

// Pipe is Run with standard input.
func Pipe(ctx context.Context, input []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		line := strings.Join(args, " ")
		if len(line) > 200 {
			line = line[:200] + "…"
		}
		why := strings.TrimSpace(said.String())
		if why == "" {
			why = strings.TrimSpace(out.String())
		}
		return out.String(), fmt.Errorf("%s: %w: %s", line, err, why)
	}
	return out.String(), nil
}

// Tail returns the last lines of a file, for people.
func Tail(file string, lines int) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
