// Package figures reads what fio prints in its terse form, version 3.
package figures

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Fields of a line, from 0 on.
const (
	fieldError    = 4
	fieldReadMax  = 38 // longest read, µs
	fieldWriteMax = 79 // longest write, µs
	leastFields   = 100
)

// Read returns how many jobs there were, one a line, and the longest time that a read or
// write took. A line that is not of a job, or of a job that failed, is an error: fio
// tells of data that is not as written in lines of its own.
func Read(out string) (jobs int, longest time.Duration, err error) {
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), ";")
		if len(f) < leastFields {
			return jobs, longest, fmt.Errorf("fio says: %s", strings.TrimSpace(line))
		}
		if f[fieldError] != "0" {
			return jobs, longest, fmt.Errorf("fio ended with error %s", f[fieldError])
		}
		for _, i := range []int{fieldReadMax, fieldWriteMax} {
			us, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return jobs, longest, fmt.Errorf("read figures of fio: %w", err)
			}
			longest = max(longest, time.Duration(us*float64(time.Microsecond)))
		}
		jobs++
	}
	return jobs, longest.Round(time.Millisecond), nil
}
