package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// proxy runs nbdkit's nbd plugin in front of an export, with filters, until the test ends,
// and gives its URI.
func proxy(t *testing.T, l *tool, uri string, filters []string, settings ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "proxy.sock")
	args := []string{"--foreground", "--exit-with-parent", "--unix", socket}
	for _, f := range filters {
		args = append(args, "--filter="+f)
	}
	cmd := exec.Command(l.path, append(append(args, "nbd", "uri="+uri), settings...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "nbdkit.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("nbdkit's log:\n%s", text)
		}
	})
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return "nbd+unix:///?socket=" + socket
		}
		if time.Now().After(deadline) {
			t.Fatal("nbdkit does not listen")
		}
		<-tick.C
	}
}

// nbdkit as a client: its plugin passes every kind of request on to us.
func TestNbdkitProxy(t *testing.T) {
	l, copier := need(t, "nbdkit"), need(t, "nbdcopy")
	s := start(t)
	rng := seeded(t)
	const size = 64 * mib
	file := sample(t, rng, size)
	s.strata("create", "--size", fmt.Sprint(size), "img")
	through := proxy(t, l, s.uri("img"), nil)
	copier.run("--flush", file, through)
	back := filepath.Join(t.TempDir(), "back.raw")
	copier.run(through, back)
	same(t, file, back)
	l.result("nbd plugin: %d MiB there and back are equal", size/mib)
}

// A client with the sense to reconnect sees nothing of SIGKILL but a pause.
func TestNbdkitRetryOverKill(t *testing.T) {
	l, f := need(t, "nbdkit"), need(t, "fio")
	s := start(t)
	s.strata("create", "--size", "64M", "img")
	through := proxy(t, l, s.uri("img"), []string{"retry"}, "retries=60", "retry-delay=1", "retry-exponential=no")

	done := make(chan error, 1)
	go func() {
		_, err := tryFio(f, through, "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=64m", "--verify=crc32c",
			"--verify_backlog=1024", "--time_based", "--runtime=6", "--rate_iops=2000")
		done <- err
	}()
	kills := 0
	for next := time.After(time.Second); ; {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("fio over %d kills: %v", kills, err)
			}
			if kills < 2 {
				t.Errorf("only %d kills", kills)
			}
			l.result("retry filter: fio verify=crc32c ran through %d SIGKILLs with err=0", kills)
			return
		case <-next:
			s.kill()
			s.launch()
			kills++
			next = time.After(2 * time.Second)
		}
	}
}
