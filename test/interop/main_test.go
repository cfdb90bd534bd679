package interop

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// strataBin is the strata under test; TestMain sets it before any test runs.
var strataBin string //nolint:gochecknoglobals // TestMain has no other way to hand it on

func TestMain(m *testing.M) {
	flag.Parse()
	unsafe, err := lacksResource()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	if unsafe {
		fmt.Fprintln(os.Stderr, "interop: "+unsafeNotice)
	}
	os.Exit(run(m))
}

const unsafeNotice = "NO CAP_SYS_RESOURCE HERE: the store runs with --allow-unsafe, so its start as on a node is not tested"

// lacksResource tells whether a process started from here has no CAP_SYS_RESOURCE,
// without which a store refuses to start.
func lacksResource() (bool, error) {
	const capSysResource = 24
	out, err := exec.Command("sed", "-n", `s/^CapEff:\s*//p`, "/proc/self/status").Output()
	if err != nil {
		return false, fmt.Errorf("ask for capabilities: %w", err)
	}
	set, err := strconv.ParseUint(strings.TrimSpace(string(out)), 16, 64)
	if err != nil {
		return false, fmt.Errorf("capabilities of a child: %w", err)
	}
	return set>>capSysResource&1 == 0, nil
}

func run(m *testing.M) int {
	if strataBin = os.Getenv("STRATA_BIN"); strataBin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "strata-interop-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	strataBin = filepath.Join(dir, "strata")
	build := exec.Command("go", "build", "-o", strataBin, "../../cmd/strata")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "interop: build strata: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
