package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// patience bounds every wait.
const patience = 60 * time.Second

// storeProcess is one data directory and the process that serves it.
type storeProcess struct {
	binary string
	dir    string
	cmd    *exec.Cmd
	log    *os.File
}

// start serves the data directory and returns when the store answers.
func (p *storeProcess) start(ctx context.Context, more ...string) error {
	// The demo attaches no kernel device, so it does without CAP_SYS_RESOURCE.
	p.cmd = exec.Command(p.binary, append([]string{"store", "--data", p.dir, "--allow-unsafe"}, more...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start the store: %w", err)
	}
	err := until(ctx, "the store answers", func() (bool, error) {
		_, err := p.strata(ctx, "status")
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w; its log is:\n%s", err, p.logged())
	}
	return nil
}

// kill ends the process without a chance to close or sync anything.
func (p *storeProcess) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill the store: %w", err)
	}
	_ = p.cmd.Wait() // tells of the signal
	p.cmd = nil
	return nil
}

// close ends the process in order.
func (p *storeProcess) close() error {
	defer p.log.Close()
	if p.cmd == nil {
		return nil
	}
	cmd := p.cmd
	p.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(fmt.Errorf("stop the store: %w", err), cmd.Wait())
	}
	last := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer last.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the store ended with %w; its log is:\n%s", err, p.logged())
	}
	return nil
}

func (p *storeProcess) logged() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

// uri names an image or snapshot for NBD clients.
func (p *storeProcess) uri(ref string) string {
	return "nbd+unix:///" + url.PathEscape(ref) + "?socket=" + filepath.Join(p.dir, "nbd.sock")
}

// strata runs an operator verb and gives its output.
func (p *storeProcess) strata(ctx context.Context, args ...string) (string, error) {
	return command(ctx, p.binary, append([]string{"--store", filepath.Join(p.dir, "api.sock")}, args...)...)
}

// query runs an operator verb and decodes its JSON.
func (p *storeProcess) query(ctx context.Context, into any, args ...string) error {
	out, err := p.strata(ctx, append(args, "--format", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("strata %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (p *storeProcess) depth(ctx context.Context, image string) (int, error) {
	var i store.Info
	err := p.query(ctx, &i, "info", image)
	return i.Depth, err
}

// command runs a program to its end and gives its standard output; the error has all it said.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}

// until waits for a state of another process.
func until(ctx context.Context, what string, ok func() (bool, error)) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("waited %v until %s", patience, what)
		}
	}
}
