package layered_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// inherited makes a clone that inherits all but its first block, and says what it
// shows.
func (r *rig) inherited(size int64) (clone store.Info, want []byte) {
	r.Helper()
	parent := r.create("parent", size)
	r.write(parent.ID, 0, size, 1)
	clone = r.clone(r.snap(parent.ID, "s").ID, "clone")
	r.write(clone.ID, 0, 4096, 2)
	want = pattern(size, 1)
	copy(want, pattern(4096, 2))
	r.idle()
	return clone, want
}

// Flatten shares where the file system can, and copies the same bytes where it cannot.
func TestFlattenSharesOrCopies(t *testing.T) {
	const size = 8 * mib
	for _, reflink := range []bool{true, false} {
		t.Run(fmt.Sprintf("reflink %v", reflink), func(t *testing.T) {
			l := newLab(t, nil)
			l.mem.SetReflink(reflink)
			c, want := l.inherited(size)
			var shared, tried, wrote atomic.Int64
			l.fail(vfs.OnPath("*.data", func(op vfs.Op) error {
				switch op.Kind {
				case vfs.OpClone:
					shared.Add(op.Length)
					tried.Add(1)
				case vfs.OpWrite:
					wrote.Add(op.Length)
				}
				return nil
			}))
			l.must(l.st.Flatten(l.ctx, c.ID))
			l.fail(nil)
			if now := l.stat(c.ID); now.Depth != 0 {
				t.Errorf("the clone is at depth %d", now.Depth)
			}
			if reflink && (shared.Load() != size-4096 || wrote.Load() != 0) {
				t.Errorf("shared %d and wrote %d of %d bytes", shared.Load(), wrote.Load(), size-4096)
			}
			if !reflink && (tried.Load() != 1 || wrote.Load() != size-4096) {
				t.Errorf("tried to share %d times and wrote %d of %d bytes", tried.Load(), wrote.Load(), size-4096)
			}
			l.want(c.ID, "the flattened clone", want)
			l.powerCut(nil)
			l.start()
			l.want(c.ID, "the flattened clone after a power cut", want)
			l.clean()
		})
	}
}

// A file system that says it cannot share one range, for reasons of its own, is asked
// no more, and everything is copied.
func TestReflinkRefusedHalfWay(t *testing.T) {
	l := newLab(t, nil)
	l.mem.SetReflink(true)
	parent := l.create("parent", 16*mib)
	l.write(parent.ID, 0, 8*mib, 1)
	c := l.clone(l.snap(parent.ID, "s").ID, "clone")
	l.fail(vfs.OnKind(vfs.OpClone, vfs.FromIndex(3, vfs.ErrUnsupported)))
	l.must(l.st.Flatten(l.ctx, c.ID))
	l.fail(nil)
	l.want(c.ID, "the clone", append(pattern(8*mib, 1), make([]byte, 8*mib)...))
	l.clean()
}

// mountXFS mounts a fresh XFS with reflink from a file.
func mountXFS(t *testing.T, size int64) (dir string) {
	t.Helper()
	skip := func(why string) { t.Skipf("SKIPPED reflink on a real XFS: %s", why) }
	if os.Geteuid() != 0 {
		skip("mounting needs root")
	}
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		skip("mkfs.xfs is not installed (package xfsprogs)")
	}
	base := scratch(t)
	image := filepath.Join(base, "xfs.img")
	dir = filepath.Join(base, "mnt")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		skip(fmt.Sprintf("mkfs.xfs: %v: %s", err, out))
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		skip(fmt.Sprintf("mount -o loop: %v: %s", err, strings.TrimSpace(string(out))))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func freeSpace(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil { // delayed allocation counts once it is done
		t.Fatal(err)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// On XFS a flatten takes no space for what it shares, and neither side sees the
// other's later writes.
func TestFlattenOnXFS(t *testing.T) {
	const size = 64 * mib
	mnt := mountXFS(t, 512*mib)
	dir := filepath.Join(mnt, "store")
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	st := reopen(t, dir)
	r := &rig{t, t.Context(), st, dir}
	defer func() { r.must(r.st.Close()) }()
	c, want := r.inherited(size)
	before := freeSpace(t, mnt)
	r.must(r.st.Flatten(r.ctx, c.ID))
	r.idle()
	took := before - freeSpace(t, mnt)
	if took > size/8 {
		t.Errorf("the flatten of %d bytes took %d bytes of the file system: it copied", size, took)
	}
	if now := r.stat(c.ID); now.Depth != 0 {
		t.Errorf("the clone is at depth %d", now.Depth)
	}
	t.Logf("flatten of %d bytes took %d bytes of the file system", size, took)
	r.want(c.ID, "the flattened clone", want)

	parent, err := r.st.Lookup(r.ctx, "parent")
	r.must(err)
	r.write(c.ID, 8*mib, mib, 3)
	r.write(parent.ID, 16*mib, mib, 4)
	copy(want[8*mib:], pattern(mib, 3))
	r.want(c.ID, "the clone after writes on both sides", want)
	other := pattern(size, 1)
	copy(other[16*mib:], pattern(mib, 4))
	r.want(parent.ID, "the parent after writes on both sides", other)
	r.remove(parent.ID)
	r.clean()
	r.want(c.ID, "the clone without its parent", want)
}
