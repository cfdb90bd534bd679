//go:build !failpoints

package layered_test

import (
	"os/exec"
	"testing"
)

// TestFailpoints runs the tests that end the process, in a build that can.
func TestFailpoints(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("a build with failpoints needs the go tool, which is not on the PATH")
	}
	cmd := exec.CommandContext(t.Context(), tool, "test", "-count=1", "-tags=failpoints", "-run=^TestKilledAfterCommit$", ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
