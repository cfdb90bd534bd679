//go:build kernelnbd

package scenario

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A node that is taken to be dead is not: it writes on, by the page cache and past it.
// Once the controller has answered, none of that reaches the image; the next node has
// it for itself; and the old device ends in errors, not in a hang.
func TestForceDetach(t *testing.T) {
	for _, fs := range []string{"", "ext4", "xfs"} {
		t.Run("of "+map[bool]string{true: "a raw device", false: fs}[fs == ""], func(t *testing.T) { forceDetach(single(t, "old", "new"), fs, nil) })
	}
}

// forceDetach needs the nodes old and new. The silent process, if there is one, is that of
// the old node's store: it stands still from before the detach until the new node has the
// volume, and may not have noticed anything then.
func forceDetach(c *cluster, fs string, silent *process) {
	const size = 8 * mib
	t := c.t
	r := random(t)
	capability := fsVolume(fs)
	if fs == "" {
		capability = rawVolume()
	}
	v := c.create("contended", 512*mib, capability, nil, nil)
	file := c.up(v, "old")
	if fs != "" {
		dirtyPages(t, filepath.Join(file, "dirty"))
		file = filepath.Join(file, "steady")
	}
	steady := startSteady(t, file, size, r)
	steady.advance(t, 200, time.Minute)

	if silent != nil {
		silent.signal(syscall.SIGSTOP)
		t.Cleanup(func() { silent.signal(syscall.SIGCONT) })
	}
	c.detach(v, "old")
	limit := uint64(steady.writes.Load()) + 1 // the one under way may have come before the answer
	gone := time.Now()

	// The new node sees what was answered, nothing that came later, and may write.
	at := c.up(v, "new")
	if fs != "" {
		writeFile(t, filepath.Join(at, "of the new node"), mib, r)
		at = filepath.Join(at, "steady")
	}
	before := numbersIn(t, at, size)
	if silent != nil {
		silent.signal(syscall.SIGCONT)
	}
	steady.waitError(t, gone, time.Minute)
	after := numbersIn(t, at, size)
	if worst := max(highest(before), highest(after)); worst > limit {
		t.Errorf("write %d of the old node is in the image; the last before the answer was %d", worst, limit)
	}
	if !bytes.Equal(before, after) {
		t.Error("the image changed under the new node while the old one wrote")
	}
	// The kubelet of the old node cleans up at last.
	_ = steady.halt()
	steady.file.Close()
	c.leaveForced(v, "old")
	eventually(t, time.Minute, "the old node's device is gone", func(context.Context) error { return oneDevice(t) })
	c.down(v, "new")
	if fs != "" {
		c.fsck(c.stores[0], "contended", fs)
	}
	c.remove(v)
	hung(t, c.log)
	c.ended()
}

// dirtyPages leaves a file in the page cache that the device has not seen.
func dirtyPages(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Repeat([]byte("dirty"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
}

// waitError waits until the writer has met an error, which a fenced device must give.
func (s *steady) waitError(t *testing.T, from time.Time, bound time.Duration) {
	t.Helper()
	eventually(t, bound, "the old device ends in an error", func(context.Context) error {
		if s.failed() == nil {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	if err := s.failed(); !errWanted(err) {
		t.Errorf("the old device ended in %v; want an I/O error", err)
	}
	t.Logf("the old device ended in %q after %v", s.failed(), time.Since(from).Round(time.Millisecond))
}

// numbersIn reads the numbers that a steady writer has left in a file, past the cache.
func numbersIn(t *testing.T, path string, size int64) []byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	var numbers []byte
	if _, err := f.ReadAt(buf, 0); err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Fatal(err)
	}
	for off := 0; off < len(buf); off += steadyBlock {
		numbers = append(numbers, buf[off+8:off+16]...)
	}
	return numbers
}

func highest(numbers []byte) uint64 {
	var worst uint64
	for i := 0; i < len(numbers); i += 8 {
		worst = max(worst, binary.LittleEndian.Uint64(numbers[i:]))
	}
	return worst
}

// leaveForced unpublishes and unstages a volume that was detached by force.
func (c *cluster) leaveForced(v *volume, node string) {
	c.t.Helper()
	begin := time.Now()
	c.leave(v, node)
	if d := time.Since(begin); d > 30*time.Second {
		c.t.Errorf("taking a fenced volume from its node took %v", d)
	}
}

func oneDevice(t *testing.T) error {
	if n := len(ourDevices(t)); n != 1 {
		return os.ErrExist
	}
	return nil
}

// hung fails when the kernel has told of hung tasks or bugs; errors of a fenced device
// are as they should be.
func hung(t *testing.T, log *kernelLog) {
	t.Helper()
	for _, line := range log.lines(t) {
		if strings.Contains(line, "blocked for more than") || strings.Contains(line, "BUG") || strings.Contains(line, "WARNING: CPU") {
			t.Errorf("the kernel's log: %s", line)
		}
	}
}
