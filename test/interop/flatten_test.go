package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// Flatten runs while fio writes and verifies, the store is killed in the middle of it, and
// what was copied before counts: nothing is copied twice, and no byte changes.
func TestFlattenUnderFio(t *testing.T) {
	l, compare, kit := need(t, "fio"), need(t, "qemu-img"), need(t, "nbdkit")
	s := start(t, "--copy-rate", "64M")
	rng := seeded(t)
	const size = 384 * mib
	golden := randomFile(t, size)
	s.strata("import", golden, "golden")
	s.strata("clone", "golden", "child")
	s.strata("snap", "create", "child@early")

	// fio knows no reconnect; nbdkit's retry filter stands for the kernel client.
	through := proxy(t, kit, s.uri("child"), []string{"retry"}, "retries=60", "retry-delay=1", "retry-exponential=no")
	verified := make(chan error, 1)
	go func() {
		_, err := tryFio(l, through, "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=64m", "--verify=crc32c",
			"--verify_backlog=512", "--time_based", "--runtime=15", "--rate_iops=1000", fmt.Sprintf("--randseed=%d", rng.Uint32()))
		verified <- err
	}()

	before := s.copiedUntil(size * 2 / 5)
	s.kill()
	s.launch()
	s.eventually("the flatten is done", func() bool { return s.depth("child") == 0 })
	var status store.Status
	s.query(&status, "status")

	total := before + status.Copied
	if total > size*11/10 || total < size*9/10 {
		t.Errorf("copied %d MiB before and %d MiB after the kill for %d MiB", before/mib, status.Copied/mib, size/mib)
	}
	if status.Copied > size*8/10 {
		t.Errorf("after the kill %d of %d MiB were copied: it started over", status.Copied/mib, size/mib)
	}
	if err := <-verified; err != nil {
		t.Errorf("fio during flatten: %v", err)
	}
	compare.run("compare", "-f", "raw", "-F", "raw", golden, s.uri("child@early"))
	compare.run("compare", "-f", "raw", "-F", "raw", golden, s.uri("golden"))
	s.strata("rm", "golden")
	compare.run("compare", "-f", "raw", "-F", "raw", golden, s.uri("child@early"))
	l.result("verify=crc32c with err=0 through flatten and SIGKILL; copied %d + %d MiB of %d",
		before/mib, status.Copied/mib, size/mib)
}

// copiedUntil starts a flatten of child and waits until it has copied enough bytes; it
// gives the bytes copied as of the last look.
func (s *server) copiedUntil(enough int64) int64 {
	s.t.Helper()
	s.strata("flatten", "--no-wait", "child")
	var copied int64
	s.eventually(fmt.Sprintf("%d MiB are copied", enough/mib), func() bool {
		var status store.Status
		s.query(&status, "status")
		copied = status.Copied
		return copied >= enough
	})
	if s.depth("child") == 0 {
		s.t.Fatal("the flatten was done before the kill: nothing is shown")
	}
	return copied
}

func (s *server) depth(image string) int {
	s.t.Helper()
	var i store.Info
	s.query(&i, "info", image)
	return i.Depth
}

// randomFile writes size bytes which no file system can make holes of.
func randomFile(t *testing.T, size int64) string {
	t.Helper()
	rng := seeded(t)
	path := filepath.Join(t.TempDir(), "golden.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, mib)
	for off := int64(0); off < size; off += mib {
		fill(rng, b)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
