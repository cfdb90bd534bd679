package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// python is Debian's own, for which python3-libnbd is built.
const python = "/usr/bin/python3"

// liveClient is live.py at work.
type liveClient struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	model  bytes.Buffer // what its range must hold, once it has ended
	stderr bytes.Buffer
	ended  chan error
}

func startLive(ctx context.Context, dir, uri string, seed uint64, start, length int64, other string) (*liveClient, error) {
	c := &liveClient{ended: make(chan error, 1)}
	c.cmd = exec.CommandContext(ctx, python, filepath.Join(dir, "live.py"), uri,
		fmt.Sprint(seed), fmt.Sprint(start), fmt.Sprint(length), other)
	c.cmd.Stdout, c.cmd.Stderr = &c.model, &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.ended <- c.cmd.Wait() }()
	return c, nil
}

// finish lets the client check everything once more; it gives its numbers and what its range holds.
func (c *liveClient) finish() (reads, writes, reconnects int, model []byte, err error) {
	_ = c.stdin.Close()
	if err := <-c.ended; err != nil {
		return 0, 0, 0, nil, fmt.Errorf("live client: %w: %s", err, c.stderr.String())
	}
	if _, err := fmt.Sscan(strings.TrimSpace(c.stderr.String()), &reads, &writes, &reconnects); err != nil {
		return 0, 0, 0, nil, fmt.Errorf("live client said %q: %w", c.stderr.String(), err)
	}
	return reads, writes, reconnects, c.model.Bytes(), nil
}

// abandon ends the client wherever it is.
func (c *liveClient) abandon() {
	_ = c.cmd.Process.Kill()
	<-c.ended
}
