package main

import (
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

// imageSize of what is measured, in MiB.
const imageSize = 256

// lab is a strata store with the images of the cases, and files for its peers.
type lab struct {
	options
	ctx    context.Context
	dir    string
	data   string
	env    []string // of all programs; nil: this process' own
	proc   *exec.Cmd
	serial int
}

// newLab starts a store and fills a base image and a file with the same bytes.
func newLab(ctx context.Context, o options, dir string) (*lab, error) {
	l := &lab{options: o, ctx: ctx, dir: dir, data: filepath.Join(dir, "store")}
	raw := l.file("raw")
	if err := l.do("dd", "if=/dev/urandom", "of="+raw, "bs=1M", fmt.Sprintf("count=%d", imageSize), "status=none"); err != nil {
		return nil, err
	}
	p, err := l.start(l.data+"/api.sock", o.strata, "store", "--data", l.data, "--init", "--allow-unsafe")
	if err != nil {
		return nil, err
	}
	l.proc = p
	steps := [][]string{
		{"import", raw, "base"}, {"snap", "create", "base@s"}, {"clone", "base@s", "child"},
	}
	for _, s := range steps {
		if err := l.tool(s...); err != nil {
			return nil, errors.Join(err, l.end())
		}
	}
	return l, l.deepen(64)
}

// deepen makes the image deep: n clone links, each with a few blocks of its own.
func (l *lab) deepen(n int) error {
	parent := "base"
	for i := range n {
		name := fmt.Sprintf("deep%d", i)
		if err := l.tool("clone", parent, name, "--soft-depth", "100", "--hard-depth", "200"); err != nil {
			return err
		}
		uri := l.uri(name)
		write := fmt.Sprintf("write -q -P %d %dM 256k", i+1, i*3)
		if err := l.do("qemu-io", "-f", "raw", "-c", write, uri); err != nil {
			return err
		}
		parent = name
	}
	return nil
}

func (l *lab) file(name string) string { return filepath.Join(l.dir, name) }

// uri of an image in the store.
func (l *lab) uri(image string) string {
	return "nbd+unix:///" + image + "?socket=" + l.data + "/nbd.sock"
}

// tool runs a verb of strata.
func (l *lab) tool(args ...string) error {
	return l.do(l.strata, append([]string{"--store", l.data, "--no-progress"}, args...)...)
}

// do runs a program to its end.
func (l *lab) do(name string, args ...string) error {
	cmd := exec.CommandContext(l.ctx, name, args...)
	cmd.Env = l.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// start runs a server and waits until its socket takes connections.
func (l *lab) start(socket, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(l.ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = l.env
	log, err := os.CreateTemp(l.dir, "server-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := awaitSocket(l.ctx, socket); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%s: %w\n%s", name, err, text), stop(cmd))
	}
	return cmd, nil
}

// awaitSocket returns when somebody listens.
func awaitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if st, err := os.Stat(path); err == nil && st.Mode().Type() == os.ModeSocket {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s: %w", path, ctx.Err())
		}
	}
}

// stop ends a server that was started here.
func stop(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		return err
	}
	return nil
}

func (l *lab) end() error { return stop(l.proc) }
