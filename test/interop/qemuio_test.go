package interop

import (
	"strings"
	"testing"
)

// qemuIO runs commands on one connection. qemu-io tells of a wrong pattern on its output
// and, depending on the command, still exits with 0.
func qemuIO(l *tool, uri string, commands ...string) {
	l.t.Helper()
	args := []string{"-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := l.run(append(args, uri)...)
	for _, bad := range []string{"verification failed", "failed:", "error", "invalid"} {
		if strings.Contains(out, bad) {
			l.t.Fatalf("qemu-io %s: %s", strings.Join(commands, "; "), out)
		}
	}
}

func TestQemuIO(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	for _, c := range []struct {
		name     string
		commands []string
	}{
		{"write and read", []string{
			"write -P 0x11 0 64k", "write -P 0x22 4k 512", "read -P 0x11 0 4k", "read -P 0x22 4k 512",
			"read -P 0x11 4608 3584", "read -P 0 64k 1M",
		}},
		{"force unit access", []string{"write -f -P 0x33 1M 4k", "read -P 0x33 1M 4k"}},
		{"write zeroes", []string{
			"write -P 0x44 2M 1M", "write -z 2M 64k", "write -z -u 2176k 64k", "write -z -f 2304k 512",
			"read -P 0 2M 64k", "read -P 0x44 2112k 64k", "read -P 0 2176k 64k", "read -P 0 2304k 512",
			"read -P 0x44 2359808 512",
		}},
		{"discard", []string{
			"write -P 0x55 4M 1M", "discard 4M 64k", "read -P 0 4M 64k", "read -P 0x55 4160k 64k",
			"write -P 0x56 4M 512", "read -P 0x56 4M 512", "read -P 0 4194816 65024",
		}},
		{"flush", []string{"write -P 0x66 6M 4k", "flush", "read -P 0x66 6M 4k"}},
		{"last block", []string{"write -P 0x77 16773120 4k", "read -P 0x77 16773120 4k"}},
		{"overlapping in flight", []string{
			"aio_write -q -P 0x88 8M 2M", "aio_write -q -P 0x88 9M 2M", "aio_write -q -P 0x88 8193k 1M", "aio_flush",
			"read -P 0x88 8M 3M",
		}},
		{"across 32 requests", []string{"write -P 0x99 0 16M", "read -P 0x99 0 16M"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := strings.ReplaceAll(c.name, " ", "-")
			s.strata("create", "--size", "16M", "--block-size", "512", image)
			qemuIO(l, s.uri(image), c.commands...)
			qemuIO(l, s.tcpURI(image), "write -P 0xaa 12M 64k", "flush", "read -P 0xaa 12M 64k")
		})
	}
	l.result("read, write, FUA, write zeroes, discard, flush: patterns verified")
}

// Discard and write zeroes over data of the parent must hide it, and not touch it there.
func TestQemuIOOverParentData(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "parent")
	qemuIO(l, s.uri("parent"), "write -P 0x11 0 16M")
	s.strata("snap", "create", "parent@s")
	s.strata("clone", "parent@s", "child")
	qemuIO(l, s.uri("child"),
		"discard 1M 1M", "write -z 3M 1M", "write -z -u 5M 1M", "write -P 0x22 7M 512", "discard 9M 4k")
	seen := []string{
		"read -P 0x11 0 1M", "read -P 0 1M 1M", "read -P 0x11 2M 1M", "read -P 0 3M 1M", "read -P 0x11 4M 1M",
		"read -P 0 5M 1M", "read -P 0x22 7M 512", "read -P 0x11 7340544 3584", "read -P 0 9M 4k", "read -P 0x11 10M 6M",
	}
	qemuIO(l, s.uri("child"), seen...)
	qemuIO(l, s.uri("parent"), "read -P 0x11 0 16M")

	s.kill()
	s.launch()
	qemuIO(l, s.uri("child"), seen...)
	s.strata("flatten", "child")
	qemuIO(l, s.uri("child"), seen...)
	s.strata("snap", "rm", "parent@s")
	s.strata("rm", "parent")
	qemuIO(l, s.uri("child"), seen...)
	l.result("parent data stays hidden after discard and zeroes, through SIGKILL, flatten and removal of the parent")
}

func TestQemuIOReadOnlySnapshot(t *testing.T) {
	l := need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	qemuIO(l, s.uri("img"), "write -P 0x11 0 1M")
	s.strata("snap", "create", "img@s")
	out, err := l.try("-f", "raw", "-c", "write -P 0x22 0 4k", s.uri("img@s"))
	if err == nil && !strings.Contains(out, "ead-only") && !strings.Contains(out, "not permitted") {
		t.Errorf("a snapshot was written to: %s", out)
	}
	if out, err := l.try("-r", "-f", "raw", "-c", "read -P 0x11 0 1M", s.uri("img@s")); err != nil {
		t.Errorf("read of a snapshot: %v: %s", err, out)
	}
	l.result("a snapshot refuses writes")
}
