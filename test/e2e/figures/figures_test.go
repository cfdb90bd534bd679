package figures

import (
	"strings"
	"testing"
	"time"
)

// line is a line of fio with an error and the longest read and write.
func line(failure, read, write string) string {
	f := make([]string, 130)
	for i := range f {
		f[i] = "1"
	}
	f[fieldError], f[fieldReadMax], f[fieldWriteMax] = failure, read, write
	return strings.Join(f, ";")
}

func TestRead(t *testing.T) {
	jobs, longest, err := Read(line("0", "1500.0", "20") + "\n" + line("0", "7", "2045000.000") + "\n")
	if jobs != 2 || longest != 2045*time.Millisecond || err != nil {
		t.Errorf("got %d, %v, %v; want 2, 2.045s, nil", jobs, longest, err)
	}
	for name, bad := range map[string]string{
		"failed job":  line("84", "1", "1"),
		"other words": "verify: bad header at file /data/load offset 0",
		"no number":   line("0", "x", "1"),
	} {
		if jobs, _, err := Read(line("0", "1", "1") + "\n" + bad + "\n"); err == nil || jobs != 1 {
			t.Errorf("%s: %d jobs, %v; want 1 and an error", name, jobs, err)
		}
	}
}
