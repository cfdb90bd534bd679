//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable is the environment variable that names the point to stop at.
const Variable = "STRATA_FAILPOINT"

// hits counts those of the one point that is named: a build for tests may keep state.
var hits atomic.Int64 //nolint:gochecknoglobals // one process, one point

// Hit ends the process if it is the hit that was asked for. Safe for concurrent use.
func Hit(name string) {
	point, at := wanted(os.Getenv(Variable))
	if name != point || hits.Add(1) != at {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // no further step, until the signal arrives
}

// wanted takes "name" or "name#3" apart.
func wanted(value string) (name string, at int64) {
	name, count, cut := strings.Cut(value, "#")
	if !cut {
		return name, 1
	}
	at, err := strconv.ParseInt(count, 10, 64)
	if err != nil || at < 1 || name == "" {
		panic(fmt.Sprintf("%s=%q: want name or name#N with N >= 1", Variable, value))
	}
	return name, at
}
