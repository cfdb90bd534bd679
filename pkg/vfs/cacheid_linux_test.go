package vfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/vfs"
)

// mountable makes a file system in a file, or skips by name where this machine
// cannot. Its mount answers where it is mounted and how to unmount it.
func mountable(t *testing.T, fstype string) (mount func(at string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED cache id on %s: needs root", fstype)
	}
	mkfs, err := exec.LookPath("mkfs." + fstype)
	if err != nil {
		t.Skipf("SKIPPED cache id on %s: mkfs.%s is not installed", fstype, fstype)
	}
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	must(t, err)
	must(t, errors.Join(f.Truncate(512<<20), f.Close()))
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.%s: %v: %s", fstype, err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED cache id on %s: no loop device: %s", fstype, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	return func(at string) {
		t.Helper()
		switch err := unix.Mount(device, at, fstype, 0, ""); {
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENODEV):
			t.Skipf("SKIPPED cache id on %s: mount: %v", fstype, err)
		default:
			must(t, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
}

func TestCacheIDOverMounts(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			mount := mountable(t, fstype)
			first, second, bound := t.TempDir(), t.TempDir(), t.TempDir()
			id := func(name string) string {
				t.Helper()
				id, err := vfs.OS().CacheID(name)
				must(t, err)
				return id
			}
			outside := id(bound)
			mount(first)
			must(t, os.WriteFile(filepath.Join(first, "file"), nil, 0o644))
			before := id(first)
			if !strings.Contains(before, " mount ") || before == outside {
				t.Fatalf("id %q says nothing of the mount", before)
			}
			if got := id(filepath.Join(first, "file")); got != before {
				t.Errorf("a file has id %q, its directory %q", got, before)
			}
			must(t, unix.Mount(first, bound, "", unix.MS_BIND, ""))
			t.Cleanup(func() { _ = unix.Unmount(bound, unix.MNT_DETACH) })
			if got := id(bound); got != before {
				t.Errorf("a bind mount has id %q, the file system %q", got, before)
			}
			must(t, unix.Unmount(first, 0))
			if got := id(bound); got != before {
				t.Errorf("after the first mount went the id is %q, was %q", got, before)
			}
			mount(second) // the same superblock, since it is still mounted
			if got := id(second); got != before {
				t.Errorf("a second mount has id %q, the first %q", got, before)
			}
			must(t, unix.Unmount(second, 0))
			must(t, unix.Unmount(bound, 0))
			mount(first)
			if got := id(first); got == before {
				t.Errorf("unmount and mount left the id %q", got)
			}
		})
	}
}

func TestCacheIDOfSubvolumes(t *testing.T) {
	mount := mountable(t, "btrfs")
	at := t.TempDir()
	mount(at)
	sub := filepath.Join(at, "sub")
	var args struct { // BTRFS_IOC_SUBVOL_CREATE, linux/btrfs.h
		fd   int64
		name [4088]byte
	}
	copy(args.name[:], "sub")
	dir, err := os.Open(at)
	must(t, err)
	_, _, no := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), 0x5000940e, uintptr(unsafe.Pointer(&args)))
	must(t, dir.Close())
	if no != 0 {
		t.Fatalf("create a subvolume: %v", no)
	}
	top, err1 := vfs.OS().CacheID(at)
	below, err2 := vfs.OS().CacheID(sub)
	must(t, errors.Join(err1, err2))
	if top != below {
		t.Fatalf("the subvolume has id %q, the file system %q", below, top)
	}
}

func TestCacheIDWithoutSuperblockDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED cache id on tmpfs: needs root")
	}
	at := t.TempDir()
	if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
		t.Skipf("SKIPPED cache id on tmpfs: mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	var st unix.Stat_t
	must(t, unix.Stat(at, &st))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	want := fmt.Sprintf("boot %s dev %d:%d", strings.TrimSpace(string(boot)), unix.Major(st.Dev), unix.Minor(st.Dev))
	if got, err := vfs.OS().CacheID(at); got != want || err != nil {
		t.Fatalf("id %q, %v, want %q", got, err, want)
	}
	_, err = vfs.OS().CacheID(filepath.Join(at, "missing"))
	wantErr(t, err, os.ErrNotExist)
}

// TestReflink shares extents for real where the file system can.
func TestReflink(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			mount := mountable(t, fstype)
			at := t.TempDir()
			mount(at)
			for name, fsys := range map[string]vfs.FS{
				"os":   vfs.OS(),
				"pool": vfs.NewPool(vfs.NewCounting(vfs.OS()), 1),
			} {
				src := open(t, fsys, filepath.Join(at, name+"-src"), os.O_RDWR|os.O_CREATE)
				dst := open(t, fsys, filepath.Join(at, name+"-dst"), os.O_RDWR|os.O_CREATE)
				write(t, src, 0, strings.Repeat("a", 4096)+strings.Repeat("b", 1<<20))
				must(t, src.Sync())
				must(t, dst.CloneRange(src, 4096, 0, 1<<20))
				wantSize(t, dst, 1<<20)
				write(t, src, 4096, "changed")
				wantText(t, dst, 0, "bbbbbbb")
				wantErr(t, dst.CloneRange(src, 1, 0, 4096), vfs.ErrUnsupported)
				must(t, errors.Join(src.Close(), dst.Close()))
			}
			elsewhere := open(t, vfs.OS(), filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE)
			write(t, elsewhere, 0, strings.Repeat("a", 4096))
			here := open(t, vfs.OS(), filepath.Join(at, "f"), os.O_RDWR|os.O_CREATE)
			wantErr(t, here.CloneRange(elsewhere, 0, 0, 4096), vfs.ErrUnsupported)
			must(t, here.Close())
		})
	}
}
