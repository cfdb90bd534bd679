package stage_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/stage"
)

// How programs end is told as those expect it who look at it.
func TestProgramsEnd(t *testing.T) {
	p, err := stage.NewPrograms(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := p.Command("sh", "-c", "echo out; echo err >&2").Output(); err != nil || string(out) != "out\n" {
		t.Errorf("output %q, %v", out, err)
	}
	if out, err := p.Command("sh", "-c", "echo out; echo err >&2").CombinedOutput(); err != nil || string(out) != "out\nerr\n" {
		t.Errorf("combined output %q, %v", out, err)
	}
	cmd := p.Command("cat")
	cmd.SetStdin(strings.NewReader("in"))
	if out, err := cmd.Output(); err != nil || string(out) != "in" {
		t.Errorf("cat gives %q, %v", out, err)
	}
	var exit utilexec.ExitError
	if err := p.Command("sh", "-c", "exit 3").Run(); !errors.As(err, &exit) || !exit.Exited() || exit.ExitStatus() != 3 {
		t.Errorf("exit 3 is told as %v", err)
	}
	if err := p.Command("sh", "-c", "kill -9 $$").Run(); !errors.As(err, &exit) || exit.Exited() {
		t.Errorf("a kill is told as %v", err)
	}
	if err := p.Command("strata-no-such-program").Run(); !errors.Is(err, utilexec.ErrExecutableNotFound) {
		t.Errorf("a missing program is told as %v", err)
	}
	if _, err := p.LookPath("strata-no-such-program"); !errors.Is(err, utilexec.ErrExecutableNotFound) {
		t.Errorf("a missing program is told as %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.CommandContext(ctx, "cat").Run(); !errors.Is(err, context.Canceled) {
		t.Errorf("a program of a context that has ended: %v", err)
	}
}

// Where there is no control group to be had, that is told, and programs run all the same.
func TestProgramsWithoutGroup(t *testing.T) {
	group := filepath.Join(t.TempDir(), "programs")
	p, err := stage.NewPrograms(t.Context(), group)
	wantErr(t, err, errors.ErrUnsupported, "no cgroup v2")
	if err := p.Command("true").Run(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(group); err == nil {
		t.Error("a directory was made where no control group can be")
	}
	r := newRig(t, false)
	r.close()
	r.tune = func(c *stage.Config) { c.Exec, c.ProgramGroup = nil, group }
	r.open()
	if e := r.await(stage.Ungrouped, ""); !errors.Is(e.Err, errors.ErrUnsupported) {
		t.Errorf("told: %v", e.Err)
	}
}
