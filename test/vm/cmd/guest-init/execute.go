package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// execute runs the command, waits for it and for every orphan until then, and
// returns its exit code, as a shell would.
func execute(job wire.Job, frames *wire.Writer) (int, error) {
	program, err := exec.LookPath(job.Args[0])
	if err != nil {
		return 127, frames.Write(wire.Note, []byte(err.Error()))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	p, err := os.StartProcess(program, job.Args, &os.ProcAttr{
		Dir: job.Dir, Env: job.Env, Files: []*os.File{null, w, w},
	})
	if err != nil {
		return 126, frames.Write(wire.Note, []byte(err.Error()))
	}
	_, _ = null.Close(), w.Close()

	var output sync.WaitGroup
	output.Go(func() { copyOutput(frames, r) })
	code, err := await(p.Pid, job.Timeout, frames)
	// A process that the command left behind may hold the pipe for ever.
	_ = r.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	output.Wait()
	return code, err
}

func copyOutput(frames *wire.Writer, r *os.File) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && frames.Write(wire.Output, buf[:n]) != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				_ = frames.Write(wire.Note, []byte("read output: "+err.Error()))
			}
			return
		}
	}
}

// reap waits for children, adopted ones too, until pid has ended.
func reap(pid int) (int, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the command: %w", err)
		case got != pid:
		case status.Exited():
			return status.ExitStatus(), nil
		default: // a signal ended it
			return 128 + int(status.Signal()), nil
		}
	}
}

// grace is how long the command may take to answer a signal.
const grace = 5 * time.Second

// await returns the exit code of pid. When its time is up it is ended, and has, as the
// kernel has, to say before where it is. What waits in the kernel for ever, which no signal
// ends, is left behind.
func await(pid int, timeout time.Duration, frames *wire.Writer) (int, error) {
	ended := make(chan struct{})
	var code int
	var err error
	go func() {
		defer close(ended)
		code, err = reap(pid)
	}()
	if within(ended, timeout) {
		return code, err
	}
	_ = frames.Write(wire.Note, fmt.Appendf(nil, "not done after %v: asking for stacks", timeout))
	_ = unix.Kill(pid, unix.SIGQUIT)
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
	if within(ended, grace) {
		return wire.TimeoutCode, err
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	if within(ended, grace) {
		return wire.TimeoutCode, err
	}
	return wire.TimeoutCode, frames.Write(wire.Note, []byte("it could not be ended: something of it waits in the kernel"))
}

func within(ended <-chan struct{}, bound time.Duration) bool {
	select {
	case <-ended:
		return true
	case <-time.After(bound):
		return false
	}
}
