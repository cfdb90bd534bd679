package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// fill writes random data and prints its checksum; sum prints it again.
const (
	fill = "set -e; dd if=/dev/urandom of=/%[1]s/file bs=1M count=8 2>/dev/null; sync; sha256sum </%[1]s/file"
	sum  = "set -e; sha256sum </%[1]s/file"
	// sizeOf prints the size of the file system in MiB.
	sizeOf = "df -m /%[1]s | awk 'END {print $2}'"
)

// must is for the second of two results.
func must[T any](s *space, what string, do func() (T, error)) T {
	s.t.Helper()
	var v T
	s.step(what, func() (err error) {
		v, err = do()
		return err
	})
	return v
}

// write makes a claim and a pod that fills it, and returns the checksum.
func (s *space) write(c claim, node string) string {
	s.t.Helper()
	s.claim(c)
	s.step("claim "+c.name+" bound", func() error { return s.bound(c.name) })
	s.pod(pod{name: "write-" + c.name, node: node, claims: []string{c.name}, script: fmt.Sprintf(fill, c.name)})
	return must(s, "pod wrote to "+c.name, func() (string, error) { return s.finished("write-" + c.name) })
}

// read runs a pod that reads a claim and fails the test unless the checksum is as given.
func (s *space) read(name, node, want string) {
	s.t.Helper()
	s.pod(pod{name: "read-" + name, node: node, claims: []string{name}, script: fmt.Sprintf(sum, name)})
	got := must(s, "pod read from "+name, func() (string, error) { return s.finished("read-" + name) })
	if got != want {
		s.t.Fatalf("%s has checksum %s, want %s", name, got, want)
	}
}

// The way that users come for: claim, data, snapshot, a larger claim from it, and a
// clone; then the source goes and the others live on.
func TestClaimSnapshotRestoreClone(t *testing.T) {
	s := newSpace(t, "flow")
	want := s.write(claim{name: "source"}, workers[0])
	s.step("snapshot ready", func() error { return s.snapshot("snap", "source") })

	s.claim(claim{name: "restored", size: "2Gi", snapshot: "snap"})
	s.step("claim from snapshot bound", func() error { return s.bound("restored") })
	s.pod(pod{name: "grown", node: workers[1], claims: []string{"restored"},
		script: fmt.Sprintf(sum, "restored") + "; " + fmt.Sprintf(sizeOf, "restored")})
	out := must(s, "pod read the larger claim on the other node", func() (string, error) { return s.finished("grown") })
	got, size, _ := strings.Cut(out, "\n")
	if mib, err := strconv.Atoi(size); got != want || err != nil || mib < 1800 {
		t.Errorf("pod saw checksum %s, want %s, and %s MiB of 2 GiB", got, want, size)
	}

	s.claim(claim{name: "clone", source: "source"})
	s.step("clone bound", func() error { return s.bound("clone") })
	s.read("clone", "", want)

	s.step("pod of the source gone", func() error { return s.ended("write-source") })
	s.step("source deleted", func() error {
		_, err := kubectl(s.ctx, "", "-n", s.name, "delete", "pvc", "source", "--timeout="+patience.String())
		return err
	})
	s.claim(claim{name: "later", snapshot: "snap"})
	s.step("claim from the snapshot of the deleted bound", func() error { return s.bound("later") })
	s.read("later", workers[0], want)
}

// A volume moves from one node to the other with its data.
func TestMoveBetweenNodes(t *testing.T) {
	s := newSpace(t, "move")
	want := s.write(claim{name: "data"}, workers[0])
	s.step("pod on the first node gone", func() error { return s.ended("write-data") })
	s.read("data", workers[1], want)
}

// A raw block device keeps what was written to it, and its clone has it.
func TestRawBlock(t *testing.T) {
	s := newSpace(t, "block")
	s.claim(claim{name: "raw", block: true})
	s.step("claim bound", func() error { return s.bound("raw") })
	s.pod(pod{name: "writer", node: workers[0], claims: []string{"raw"}, block: true, script: "set -e; blockdev --getsize64 /dev/raw; " +
		"dd if=/dev/urandom of=/dev/raw bs=1M seek=100 count=8 conv=fsync 2>/dev/null; " +
		"dd if=/dev/raw bs=1M skip=100 count=8 2>/dev/null | sha256sum"})
	out := must(s, "pod wrote to the device", func() (string, error) { return s.finished("writer") })
	size, want, _ := strings.Cut(out, "\n")
	if size != strconv.Itoa(1<<30) {
		t.Errorf("device has %s bytes, want 1 GiB", size)
	}
	s.claim(claim{name: "raw-clone", source: "raw", block: true})
	s.step("clone bound", func() error { return s.bound("raw-clone") })
	s.pod(pod{name: "reader", node: workers[1], claims: []string{"raw-clone"}, block: true,
		script: "dd if=/dev/raw-clone bs=1M skip=100 count=8 2>/dev/null | sha256sum"})
	if got := must(s, "pod read from the clone", func() (string, error) { return s.finished("reader") }); got != want {
		t.Errorf("clone has checksum %s, want %s", got, want)
	}
}

// A claim of a snapshot that many may read is read on both nodes at once.
func TestReadOnlyMany(t *testing.T) {
	s := newSpace(t, "rox")
	want := s.write(claim{name: "source"}, workers[0])
	s.step("snapshot ready", func() error { return s.snapshot("snap", "source") })
	s.claim(claim{name: "many", snapshot: "snap", mode: "ReadOnlyMany"})
	s.step("read-only claim bound", func() error { return s.bound("many") })
	for _, n := range workers {
		s.pod(pod{name: "on-" + n, node: n, claims: []string{"many"}, only: true})
	}
	for _, n := range workers {
		s.step("pod runs on "+n, func() error { return s.running("on-" + n) })
	}
	for _, n := range workers {
		got := must(s, "read on "+n, func() (string, error) { return s.exec("on-"+n, fmt.Sprintf(sum, "many")) })
		if got != want {
			t.Errorf("%s reads checksum %s, want %s", n, got, want)
		}
		if out, err := s.exec("on-"+n, "touch /many/new"); err == nil {
			t.Errorf("%s could write to a read-only volume: %s", n, out)
		}
	}
}
