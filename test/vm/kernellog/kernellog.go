// Package kernellog judges lines of a kernel's log.
package kernellog

import (
	"regexp"
	"strings"
)

// Faults returns the lines that tell of an I/O error, a damaged file system, a hung
// task, or a bug of the kernel.
func Faults(lines []string) []string {
	fault := regexp.MustCompile(`(?i)I/O error|\bEIO\b|blocked for more than|\bBUG[: ]|\bOops\b|kernel panic|` +
		`lost async page write|lost sync page write|EXT[234]-fs.*error|XFS.*(corrupt|shut ?down|metadata I/O)|` +
		`BTRFS.*(error|corrupt)|aborting journal|remounting filesystem read-only|WARNING: CPU|` +
		`use-after-free|refcount_t|soft lockup|rcu_.*stall|possible circular locking`)
	// Said by btrfs and XFS when a probe tries them on somebody else's bytes.
	harmless := regexp.MustCompile(`Can't find a valid|bad magic number`)
	var found []string
	for _, line := range lines {
		if fault.MatchString(line) && !harmless.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
