//go:build ceph && failpoints

package rbd_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
)

// TestKilledAtPoints kills the program after every durable step that it makes.
func TestKilledAtPoints(t *testing.T) {
	l := newLab(t)
	for _, point := range points(t) {
		t.Run(point, func(t *testing.T) {
			b := &bench{T: t, l: l, o: l.options(16 << 10)}
			if err := b.start("STRATA_FAILPOINT=" + point).Wait(); !killed(err) {
				t.Fatalf("the program ended with %v: it never came to the point", err)
			}
			b.survives("killed at " + point)
		})
	}
}

// killed tells whether a process ended by SIGKILL.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// points finds the failpoints in the package's source, but that of a take-over, which
// needs another gateway.
func points(t *testing.T) (list []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	hit := regexp.MustCompile(`failpoint\.Hit\("(rbd\.[a-z.]+)"\)`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range hit.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "rbd.takeover.fenced" {
				list = append(list, m[1])
			}
		}
	}
	slices.Sort(list)
	if len(list) < 20 {
		t.Fatalf("only %d failpoints were found: %v", len(list), list)
	}
	return list
}
