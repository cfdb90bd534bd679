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
	fieldRead     = 5  // KiB
	fieldReadMax  = 38 // longest read, µs
	fieldWritten  = 46 // KiB
	fieldWriteMax = 79 // longest write, µs
	leastFields   = 100
)

// Load is what jobs did.
type Load struct {
	Written, Read int64         // bytes
	Longest       time.Duration // that a read or a write took
}

// Read adds up the jobs that fio tells of, one a line. A line that is not of a job, or of
// a job that failed, is an error: fio tells of data that is not as written in lines of
// its own. That it was interrupted is none: it is how an endless job ends.
func Read(out string) (Load, error) {
	var all Load
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "fio: terminating on signal ") {
			continue
		}
		f := strings.Split(line, ";")
		if len(f) < leastFields {
			return all, fmt.Errorf("fio says: %s", line)
		}
		if f[fieldError] != "0" {
			return all, fmt.Errorf("fio ended with error %s", f[fieldError])
		}
		var number [leastFields]float64
		for _, i := range []int{fieldRead, fieldReadMax, fieldWritten, fieldWriteMax} {
			var err error
			if number[i], err = strconv.ParseFloat(f[i], 64); err != nil {
				return all, fmt.Errorf("read figures of fio: %w", err)
			}
		}
		all.Read += int64(number[fieldRead]) << 10
		all.Written += int64(number[fieldWritten]) << 10
		longest := time.Duration(max(number[fieldReadMax], number[fieldWriteMax]) * float64(time.Microsecond))
		all.Longest = max(all.Longest, longest.Round(time.Millisecond))
	}
	return all, nil
}
