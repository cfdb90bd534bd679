package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for another process.
const patience = 60 * time.Second

// server is one data directory and the store process that serves it.
type server struct {
	t    *testing.T
	dir  string // data directory
	tcp  string // host:port of the NBD listener
	args []string
	cmd  *exec.Cmd
	done chan error // the process's end, received once
	log  *os.File
}

// start initialises a data directory and serves it until the test ends. The store must then
// check clean, end by itself on SIGTERM and never have panicked.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), tcp: freeAddress(t), args: args}
	log, err := os.Create(filepath.Join(t.TempDir(), "store.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	s.launch("--init")
	t.Cleanup(s.finish)
	return s
}

func (s *server) launch(more ...string) {
	s.t.Helper()
	args := append([]string{"store", "--data", s.dir, "--listen", "tcp://" + s.tcp, "--open-tcp"}, s.args...)
	unsafe, err := lacksResource()
	if err != nil {
		s.t.Fatal(err)
	}
	if unsafe {
		s.t.Log(unsafeNotice)
		args = append(args, "--allow-unsafe")
	}
	s.cmd = exec.Command(strataBin, append(args, more...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	// The store must not outlive a test run that was killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", strataBin, err)
	}
	done := make(chan error, 1)
	go func(c *exec.Cmd) { done <- c.Wait() }(s.cmd)
	s.done = done
	s.eventually("the store answers", func() bool {
		select {
		case err := <-done:
			s.t.Fatalf("the store ended at once: %v\n%s", err, s.logged())
		default:
		}
		return exec.Command(strataBin, "--store", s.api(), "status").Run() == nil
	})
}

func (s *server) finish() {
	t := s.t
	if s.cmd.ProcessState == nil {
		if out, err := s.try("check"); err != nil {
			t.Errorf("strata check: %v\n%s", err, out)
		}
		s.stop()
	}
	log := s.logged()
	if bad := regexp.MustCompile(`(?m)^(panic:|fatal error:|WARNING: DATA RACE).*`).FindString(log); bad != "" {
		t.Errorf("the store's log has %q", bad)
	}
	if t.Failed() {
		t.Logf("the store's log:\n%s", log)
	}
	s.log.Close()
}

// stop ends the process in order, which must take no kill.
func (s *server) stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("the store ended on SIGTERM with %v", err)
		}
	case <-time.After(patience):
		s.t.Error("the store does not end on SIGTERM")
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// kill ends the process as the kernel would: nothing is closed, nothing is synced.
func (s *server) kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.done
}

// alive fails the test if the process has ended.
func (s *server) alive() {
	s.t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		s.t.Fatalf("the store is gone: %v\n%s", err, s.logged())
	default:
	}
}

func (s *server) logged() string {
	b, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	const most = 16 << 10
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return string(b)
}

func (s *server) api() string    { return filepath.Join(s.dir, "api.sock") }
func (s *server) socket() string { return filepath.Join(s.dir, "nbd.sock") }

// uri names an image or snapshot on the unix socket.
func (s *server) uri(ref string) string {
	return "nbd+unix:///" + url.PathEscape(ref) + "?socket=" + s.socket()
}

// tcpURI names an image or snapshot on the TCP listener.
func (s *server) tcpURI(ref string) string {
	return "nbd://" + s.tcp + "/" + url.PathEscape(ref)
}

// strata runs an operator verb, which must succeed, and gives its standard output.
func (s *server) strata(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("strata %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *server) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, strataBin, append([]string{"--store", s.api()}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

// query runs an operator verb and decodes its JSON.
func (s *server) query(into any, args ...string) {
	s.t.Helper()
	out := s.strata(append(args, "--format", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.t.Fatalf("strata %s: %v in %q", strings.Join(args, " "), err, out)
	}
}

// memory is the resident memory of the process in bytes, now and at its highest.
func (s *server) memory() (now, highest int64) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatalf("memory of the store: %v", err)
	}
	field := func(name string) int64 {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(b)
		if m == nil {
			s.t.Fatalf("no %s in %s", name, b)
		}
		kib, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		return kib << 10
	}
	return field("VmRSS"), field("VmHWM")
}

// eventually waits for a state of another process, which has no way to tell us.
func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("waited %v until %s\n%s", patience, what, s.logged())
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
