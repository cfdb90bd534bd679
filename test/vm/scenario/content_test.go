//go:build kernelnbd

package scenario

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// writeFile puts size random bytes into a file and returns their sum. The bytes are on
// the device when it returns.
func writeFile(t *testing.T, path string, size int64, r *rand.Rand) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	if _, err := io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8(seed), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// sumFile returns the sum of what the device holds of a file, not the page cache.
func sumFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// capacity is the size of the file system at path in bytes.
func capacity(t *testing.T, path string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		t.Fatalf("statfs %s: %v", path, err)
	}
	return int64(s.Blocks) * s.Bsize
}

// fsck copies a volume that nobody uses from the store and has its file system judged.
func (c *cluster) fsck(s *storeHost, name, fs string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "fsck.img")
	defer os.Remove(file)
	c.copyOut(s, name, file)
	check := exec.CommandContext(c.t.Context(), "e2fsck", "-fn", file)
	if fs == "xfs" {
		check = exec.CommandContext(c.t.Context(), "xfs_repair", "-n", "-f", file)
	}
	if out, err := check.CombinedOutput(); err != nil {
		c.t.Errorf("%s of %s: %v\n%s", check.Args[0], name, err, out)
	}
}

// copyOut copies an image to a file. It is opened for reading only: a tool that may
// write would leave its mark on the image.
func (c *cluster) copyOut(s *storeHost, name, file string) {
	c.t.Helper()
	tool(c.t, "nbdcopy", "nbd+unix:///ro/"+name+"?socket="+filepath.Join(s.data, "nbd.sock"), file)
}
