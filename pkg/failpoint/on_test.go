//go:build failpoints

package failpoint_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/failpoint"
)

// steps makes the process take steps, each with a failpoint after it, instead of
// running tests.
const steps = "STRATA_FAILPOINT_STEPS"

func TestMain(m *testing.M) {
	if os.Getenv(steps) == "" {
		os.Exit(m.Run())
	}
	for i := range 4 {
		fmt.Println("step", i)
		failpoint.Hit("odd.one")
		failpoint.Hit("each")
	}
}

// walk runs the steps in a process of its own.
func walk(t *testing.T, point string) (out string, killed bool, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), steps+"=1", failpoint.Variable+"="+point)
	all, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	return string(all), killed, err
}

func TestHitKills(t *testing.T) {
	for point, last := range map[string]int{"each": 0, "each#1": 0, "each#3": 2, "odd.one#4": 3} {
		out, killed, _ := walk(t, point)
		if want := fmt.Sprint("step ", last); !killed || !strings.HasSuffix(strings.TrimSpace(out), want) {
			t.Errorf("%s: killed %v after %q, want it after %q", point, killed, out, want)
		}
	}
	for _, point := range []string{"", "each#9", "eac", "each.", "none"} {
		if out, _, err := walk(t, point); err != nil || !strings.Contains(out, "step 3") {
			t.Errorf("%s: ended by %v with %q, want all steps", point, err, out)
		}
	}
	for _, point := range []string{"each#", "each#x", "each#0", "#2"} {
		if out, killed, err := walk(t, point); err == nil || killed || !strings.Contains(out, "panic") {
			t.Errorf("%s: ended by %v with %q, want a panic", point, err, out)
		}
	}
}
