package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/app"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// helperEnv makes the test binary be the program, or a store that cannot be closed.
const helperEnv = "STRATA_CLI_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "strata":
		main()
	case "stuck":
		helperStuck(os.Args[1])
	}
}

// stuck is a store whose Close says so and never returns.
type stuck struct{ *memstore.Store }

func (stuck) Close() error {
	fmt.Println("closing")
	select {}
}

func helperStuck(dir string) {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	fmt.Println(app.Store(ctx, app.Config{
		Data: dir, AllowUnsafe: true, Stop: time.Hour,
		Backend: func(string) (store.Full, error) { return stuck{memstore.New()}, nil },
		Ready:   func(app.Serving) { fmt.Println("ready") },
	}))
}

// process starts the test binary as a helper.
func process(t *testing.T, helper string, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+helper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

func expectLine(t *testing.T, lines *bufio.Scanner, prefix string) {
	t.Helper()
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
		t.Fatalf("got %q, want %q", lines.Text(), prefix)
	}
}

// TestSignals: the first ends the store in order, with exit code 0.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir, err := os.MkdirTemp("", "scli")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cmd, lines := process(t, "strata", "store", "--data", dir, "--init", "--allow-unsafe")
		expectLine(t, lines, "made store ")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if _, err := os.Lstat(dir + "/api.sock"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: the socket is left behind: %v", sig, err)
		}
	}
}

// TestSecondSignalEndsAtOnce: whoever does not want to wait for a stop need not.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "scli")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd, lines := process(t, "stuck", dir)
	expectLine(t, lines, "ready")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expectLine(t, lines, "closing")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the process ended with %v, want the signal", err)
	}
}

func TestStoreFlags(t *testing.T) {
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"wants --data":       {"store"},
		"not understood":     {"store", "--data", dir, "--listen", "x"},
		"want 1 <= soft":     {"store", "--data", dir, "--soft-depth", "-1"},
		"unknown flag":       {"store", "--data", dir, "--bogus"},
		"CAP_SYS_RESOURCE":   {"store", "--help"},
		"only a new store":   {"store", "--data", dir, "--allow-unsafe"},
		"takes no arguments": {"store", "--data", dir, "x"},
	} {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), helperEnv+"=strata")
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("%v says %q, want %q", args, out, want)
		}
	}
}
