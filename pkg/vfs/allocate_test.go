package vfs_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// Space taken in advance changes neither content nor size.
func (s suite) TestAllocate(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 4096, "text")
	must(t, vfs.Allocate(f, 0, 64<<10))
	must(t, vfs.Allocate(f, 0, 0))
	wantSize(t, f, 4100)
	wantText(t, f, 4090, "\x00\x00\x00\x00\x00\x00text")
	if n, err := f.Allocated(); err != nil || n < 64<<10 {
		t.Fatalf("%d bytes allocated, %v", n, err)
	}
	write(t, f, 60<<10, "end")
	wantText(t, f, 8192, strings.Repeat("\x00", 60<<10-8192)+"end")
	must(t, f.Sync())
	must(t, f.PunchHole(8192, 52<<10))
	if n, err := f.Allocated(); err != nil || n > 12<<10 {
		t.Fatalf("%d bytes allocated after the hole, %v", n, err)
	}
	wantText(t, f, 4096, "text\x00")
}

func TestAllocateNeedsSpace(t *testing.T) {
	m := memWith(t, "/d")
	m.SetCapacity(32 << 10)
	c := vfs.NewCounting(m)
	f := suite{c, "/d"}.create(t, "f")
	wantErr(t, vfs.Allocate(f, 0, 64<<10), syscall.ENOSPC)
	must(t, vfs.Allocate(f, 0, 32<<10))
	write(t, f, 28<<10, "text") // no more space than is there already
	if c.Ops(vfs.OpAllocate) != 2 || c.Bytes(vfs.OpAllocate) != 96<<10 {
		t.Errorf("counted %d operations, %d bytes", c.Ops(vfs.OpAllocate), c.Bytes(vfs.OpAllocate))
	}
	must(t, f.PunchHole(0, 32<<10))
	if _, free, err := m.Space("/"); err != nil || free != 32<<10 {
		t.Errorf("%d bytes free, %v", free, err)
	}
}

// A file of another kind cannot.
func TestAllocateUnsupported(t *testing.T) {
	f := suite{memWith(t, "/d"), "/d"}.create(t, "f")
	wantErr(t, vfs.Allocate(struct{ vfs.File }{f}, 0, 4096), vfs.ErrUnsupported)
}
