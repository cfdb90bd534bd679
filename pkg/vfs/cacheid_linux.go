package vfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CacheID is the boot id, the device number and, where the kernel shows one, the
// identity of the mounted superblock's directory below /sys/fs.
//
// That directory is made anew each time the superblock is mounted and kept while
// any mount of it is left, so a bind mount or a restarted container changes
// nothing, and umount+mount does. Its inode number is the identity: the kernel
// never gives one out twice within a boot. Its times are not used, because sysfs
// invents them whenever the inode is read into memory.
//
// File systems without such a directory (tmpfs, overlay) have only boot id and
// device number; a new mount that gets the same number is not noticed there.
func (osFS) CacheID(name string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cache id of %s: %w", name, err)
	}
	m, err := findMount(name)
	if err != nil {
		return "", fmt.Errorf("cache id of %s: %w", name, err)
	}
	id := "boot " + strings.TrimSpace(string(boot)) + " dev " + m.device
	dir, err := m.superblockDir(name)
	if err != nil {
		return "", fmt.Errorf("cache id of %s: %w", name, err)
	}
	if dir == "" {
		return id, nil
	}
	var st unix.Stat_t
	switch err := retry(func() error { return unix.Stat(dir, &st) }); {
	case errors.Is(err, fs.ErrNotExist):
		return id, nil
	case err != nil:
		return "", fmt.Errorf("cache id of %s: stat %s: %w", name, dir, err)
	}
	return fmt.Sprintf("%s mount %d", id, st.Ino), nil
}

// mount is what one line of mountinfo tells of a superblock.
type mount struct {
	device string // major:minor of the superblock
	fstype string
}

// findMount looks up the mount that holds name. The mount id leads to it where
// the kernel tells it (5.8 and later); st_dev is second best, because btrfs gives
// every subvolume a number of its own that mountinfo does not show.
func findMount(name string) (mount, error) {
	var st unix.Statx_t
	err := retry(func() error {
		return unix.Statx(unix.AT_FDCWD, name, 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	})
	if err != nil {
		return mount{}, &os.PathError{Op: "statx", Path: name, Err: err}
	}
	device := fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	id := ""
	if st.Mask&unix.STATX_MNT_ID != 0 {
		id = fmt.Sprint(st.Mnt_id)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mount{}, err
	}
	defer f.Close()
	return pickMount(f, id, device)
}

// pickMount reads mountinfo for the mount with the id, else one of the device.
func pickMount(mountinfo io.Reader, id, device string) (mount, error) {
	found := mount{device: device}
	lines := bufio.NewScanner(mountinfo)
	lines.Buffer(nil, 1<<20) // overlay mounts list their layers in one line
	for lines.Scan() {
		gotID, m := parseMountinfo(lines.Text())
		if id != "" && gotID == id {
			return m, nil
		}
		if m.device == device {
			found = m
		}
	}
	return found, lines.Err()
}

// parseMountinfo reads one line as proc(5) lays it out: id, parent, major:minor,
// root, mount point, options, optional fields, "-", type, source, options.
func parseMountinfo(line string) (id string, m mount) {
	before, after, _ := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if len(left) < 3 || len(right) < 1 {
		return "", mount{}
	}
	return left[0], mount{device: left[2], fstype: right[0]}
}

// superblockDir is the directory of the superblock below /sys/fs, "" when its
// type has none. The directory need not exist.
func (m mount) superblockDir(name string) (string, error) {
	switch m.fstype {
	case "ext2", "ext3", "ext4": // one driver serves all three
		return m.deviceDir("ext4")
	case "xfs", "f2fs":
		return m.deviceDir(m.fstype)
	case "btrfs":
		uuid, err := btrfsUUID(name)
		return "/sys/fs/btrfs/" + uuid, err
	}
	return "", nil
}

// deviceDir is the directory of a file system that goes by the kernel's name of
// its block device.
func (m mount) deviceDir(driver string) (string, error) {
	target, err := os.Readlink("/sys/dev/block/" + m.device)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return "/sys/fs/" + driver + "/" + filepath.Base(target), nil
}

// btrfsUUID asks the file system for its UUID: a btrfs has no device number of
// its own that would lead to it.
func btrfsUUID(name string) (string, error) {
	const fsInfo = 0x8400941f // BTRFS_IOC_FS_INFO, linux/btrfs.h
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var info struct {
		maxID, devices uint64
		fsid           [16]byte
		rest           [992]byte
	}
	err = retry(func() error {
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsInfo, uintptr(unsafe.Pointer(&info))); no != 0 {
			return no
		}
		return nil
	})
	if err != nil {
		return "", &os.PathError{Op: "btrfs fs info", Path: name, Err: err}
	}
	u := info.fsid
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}
