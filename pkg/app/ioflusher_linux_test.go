package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary run one of the helpers instead of the tests.
const helperEnv = "STRATA_APP_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "ioflusher":
		helperIOFlusher()
	case "reexec":
		if os.Getenv(reexecuted) == "" {
			fmt.Println(reexecAsIOFlusher())
			os.Exit(3)
		}
		helperIOFlusher()
	case "lock":
		helperLock()
	}
}

// helperIOFlusher becomes an I/O flusher with threads made before and after, and
// reads the mark back on each, by the flags and by prctl.
func helperIOFlusher() {
	before := manyThreads(20)
	err := becomeIOFlusher()
	before()
	var tasks []os.DirEntry
	if err == nil {
		after := manyThreads(40)
		tasks, err = os.ReadDir("/proc/self/task") // threads end with what they were locked to
		err = errors.Join(err, assertIOFlusher("/proc/self/task"))
		runtime.LockOSThread()
		if got, _, errno := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_IO_FLUSHER, 0, 0); got != 1 || errno != 0 {
			err = errors.Join(err, fmt.Errorf("PR_GET_IO_FLUSHER says %d, %w", got, errno))
		}
		after()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println("threads:", len(tasks) > 40)
	os.Exit(0)
}

// manyThreads makes n goroutines that hold a thread each until the returned
// function is called.
func manyThreads(n int) (release func()) {
	var up, down sync.WaitGroup
	gate := make(chan struct{})
	for range n {
		up.Add(1)
		down.Go(func() {
			runtime.LockOSThread()
			up.Done()
			<-gate
		})
	}
	up.Wait()
	return func() { close(gate); down.Wait() }
}

// pureGo returns the test binary of this package without cgo, as the product is: this
// one, or a new one.
func pureGo(t *testing.T) string {
	t.Helper()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "CGO_ENABLED" && s.Value == "0" {
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				return self
			}
		}
	}
	bin := filepath.Join(t.TempDir(), "app.test")
	cmd := exec.Command("go", "test", "-c", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func TestIOFlusherReachesEveryThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the mark needs CAP_SYS_RESOURCE, which only root has")
	}
	cmd := exec.Command(pureGo(t))
	cmd.Env = append(os.Environ(), helperEnv+"=ioflusher")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "CAP_SYS_RESOURCE") {
		t.Skip("the mark needs CAP_SYS_RESOURCE, which root lacks in this container; the vm tier has it")
	}
	if err != nil || strings.TrimSpace(string(out)) != "threads: true" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestIOFlusherReexec: a process that cgo keeps from marking its threads gets the mark for
// all of them by executing itself anew. This one may have cgo or not.
func TestIOFlusherReexec(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperEnv+"=reexec")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "CAP_SYS_RESOURCE") {
		t.Skip("the mark needs CAP_SYS_RESOURCE, which this machine does not give; the vm tier has it")
	}
	if err != nil || strings.TrimSpace(string(out)) != "threads: true" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestIOFlusherWithoutRightFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has the right that is given up here")
	}
	bin := pureGo(t)
	cmd := exec.Command("/proc/self/fd/3")
	f, err := os.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), helperEnv+"=ioflusher")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CAP_SYS_RESOURCE") {
		t.Errorf("%v: %s; want it to fail naming CAP_SYS_RESOURCE", err, out)
	}
}

func TestAssertIOFlusherFindsAThreadLeftOut(t *testing.T) {
	dir := t.TempDir()
	stat := func(tid, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, tid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tid, "stat"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stat("10", fmt.Sprintf("10 (a) b (c) S 1 1 1 0 -1 %d 9 9", ioFlusherFlags|0x40))
	if err := assertIOFlusher(dir); err != nil {
		t.Errorf("all marked: %v", err)
	}
	stat("11", "11 (strata) S 1 1 1 0 -1 524352 9 9") // PF_MEMALLOC_NOIO alone
	if err := assertIOFlusher(dir); err == nil || !strings.Contains(err.Error(), "thread 11") {
		t.Errorf("got %v, want it to name thread 11", err)
	}
	stat("11", "11 (strata) S 1")
	if err := assertIOFlusher(dir); err == nil {
		t.Error("a cut stat file was accepted")
	}
	if err := assertIOFlusher(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing task directory was accepted")
	}
}
