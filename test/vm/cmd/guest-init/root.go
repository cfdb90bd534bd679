package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// mountKernel mounts what the kernel itself shows below root.
func mountKernel(root string) error {
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
	} {
		if err := mountAt(m.fs, root+m.dir, m.fs, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountAt mounts and makes the directory if it is missing and can be made.
func mountAt(source, dir, fs string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	err := unix.Mount(source, dir, fs, flags, data)
	if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel has mounted /dev itself
		return fmt.Errorf("mount %s of type %s at %s: %w", source, fs, dir, err)
	}
	return nil
}

// switchRoot makes the host's tree the root: below, read-only; above it a tmpfs that
// takes what is written. Paths are the same as on the host.
func switchRoot(job wire.Job) error {
	lower := "/"
	if job.RootType == "9p" {
		lower = "/host"
		err := mountAt(wire.Share, lower, "9p", unix.MS_RDONLY,
			"trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any")
		if err != nil {
			return err
		}
	} else if err := loadModules(filepath.Dir(job.ModuleDir), []string{"overlay"}); err != nil {
		return err
	}
	const work = "/mnt"
	if err := mountAt("tmpfs", work, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, dir := range []string{"/upper", "/work", "/root"} {
		if err := os.Mkdir(work+dir, 0o755); err != nil {
			return fmt.Errorf("prepare root: %w", err)
		}
	}
	root := work + "/root"
	layers := "lowerdir=" + lower + ",upperdir=" + work + "/upper,workdir=" + work + "/work"
	if err := mountAt("root", root, "overlay", 0, layers); err != nil {
		return err
	}
	if err := mountKernel(root); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// As an init system leaves it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return os.Chdir("/")
}

// furnish adds what programs expect: file systems, modules, a loopback interface.
func furnish(job wire.Job) error {
	for _, m := range []struct{ fs, dir, data string }{
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"devpts", "/dev/pts", "ptmxmode=0666"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := mountAt(m.fs, m.dir, m.fs, 0, m.data); err != nil {
			return err
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("kernel version: %w", err)
	}
	modules := "/lib/modules/" + unix.ByteSliceToString(name.Release[:])
	if err := mountAt(job.ModuleDir, modules, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := loadModules("/lib/modules", job.Modules); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	for file, value := range map[string]string{
		"/proc/sys/kernel/hung_task_timeout_secs": "60",
		"/proc/sys/kernel/hung_task_warnings":     "-1",
	} {
		if err := os.WriteFile(file, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", file, err)
		}
	}
	return mountScratch(job)
}

func mountScratch(job wire.Job) error {
	if job.Disk == "" {
		return mountAt("tmpfs", wire.Scratch, "tmpfs", 0, "mode=1777")
	}
	if err := loadModules("/lib/modules", []string{job.DiskFS}); err != nil {
		return err
	}
	mkfs := exec.Command("mkfs."+job.DiskFS, job.Disk)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return fmt.Errorf("format %s: %w: %s", job.Disk, err, strings.TrimSpace(string(out)))
	}
	return mountAt(job.Disk, wire.Scratch, job.DiskFS, 0, "")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
