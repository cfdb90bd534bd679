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
	f[fieldRead], f[fieldWritten] = "3", "5"
	return strings.Join(f, ";")
}

func TestRead(t *testing.T) {
	got, err := Read("\n" + line("0", "1500.0", "20") + "\nfio: terminating on signal 2\n" + line("0", "7", "2045000.000") + "\n")
	want := Load{Read: 6 << 10, Written: 10 << 10, Longest: 2045 * time.Millisecond}
	if got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v, nil", got, err, want)
	}
	for name, bad := range map[string]string{
		"failed job":  line("84", "1", "1"),
		"other words": "verify: bad header at file /data/load offset 0",
		"no number":   line("0", "x", "1"),
	} {
		if got, err := Read(line("0", "1", "1") + "\n" + bad + "\n"); err == nil || got.Read != 3<<10 {
			t.Errorf("%s: %+v, %v; want what was before it and an error", name, got, err)
		}
	}
}
