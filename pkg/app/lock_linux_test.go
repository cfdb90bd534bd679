package app

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// helperLock holds the lock of the directory in its last argument until its input ends.
func helperLock() {
	l, err := lockDir(os.Args[len(os.Args)-1])
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	if l != nil && err == nil {
		err = l.unlock()
	}
	if err != nil {
		os.Exit(3)
	}
	os.Exit(0)
}

func TestLockNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), helperEnv+"=lock")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "<nil>\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	_, err = lockDir(dir)
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", cmd.Process.Pid)) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want it to name %s and process %d", err, dir, cmd.Process.Pid)
	}
	// The lock ends with its holder, however that ends.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	_ = cmd.Wait()
	l, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	if _, err := lockDir(dir); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("twice in one process: %v", err)
	}
	if err := l.unlock(); err != nil {
		t.Error(err)
	}
}

func TestLockOfNothing(t *testing.T) {
	if _, err := lockDir(t.TempDir() + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
