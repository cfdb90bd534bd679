//go:build ceph && !failpoints

package rbd_test

import (
	"os/exec"
	"testing"
)

// TestFailpoints runs the tests that end a process at chosen places, in a build that can.
func TestFailpoints(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go tool to build with")
	}
	cmd := exec.CommandContext(t.Context(), tool, "test", "-count=1", "-tags=ceph,pacific,ceph_preview,failpoints", "-run=^TestKilledAtPoints$", ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
