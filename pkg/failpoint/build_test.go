package failpoint_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/strata-csi/strata/pkg/failpoint"
)

// TestHitIsNothing: whatever the environment says, a normal build goes on.
func TestHitIsNothing(t *testing.T) {
	if os.Getenv(inTaggedBuild) != "" {
		t.Skip("a build with failpoints, made by TestTag: others are about it")
	}
	t.Setenv("STRATA_FAILPOINT", "here")
	if n := testing.AllocsPerRun(100, func() { failpoint.Hit("here") }); n != 0 {
		t.Errorf("a hit allocates %g times", n)
	}
}

// inTaggedBuild is set in the run of the tests that TestTag starts.
const inTaggedBuild = "STRATA_FAILPOINT_TEST"

// TestTag runs this package's tests in a build with failpoints.
func TestTag(t *testing.T) {
	if os.Getenv(inTaggedBuild) != "" {
		t.Skip("the build with failpoints does not make itself again")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("a build with failpoints needs the go tool, which is not on the PATH")
	}
	cmd := exec.CommandContext(t.Context(), tool, "test", "-count=1", "-tags=failpoints", ".")
	cmd.Env = append(os.Environ(), inTaggedBuild+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
