package main

import "debug/elf"

// machines are the architectures, as Go and Debian call them, and what their programs are
// marked with.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64,
	"arm64": elf.EM_AARCH64,
}

// part names what the image takes of a package: programs by name, and trees of files by
// path. What these need comes along.
type part struct {
	pkg      string
	programs []string
	trees    []string
	// libs are libraries that programs open by name, so that nothing tells of them.
	libs []string
}

// contents is what a node runs, what the chart's scripts run, and what somebody who looks
// into a running pod will reach for first.
var contents = []part{
	{pkg: "libgcc-s1", libs: []string{"libgcc_s.so.1"}}, // for threads that end themselves
	// Scanners tell the release from it, and the licences of all others refer to it.
	{pkg: "base-files", trees: []string{"/etc/os-release", "/etc/debian_version", "/usr/share/common-licenses"}},
	// fsck.xfs and xfs_info are scripts.
	{pkg: "dash", programs: []string{"sh"}},
	{pkg: "coreutils", programs: []string{
		"dd", "sync", // of a node, before a device is trusted
		"basename", "cat", "chmod", "chown", "cp", "cut", "date", "df", "dirname", "du", "echo", "env", "expr",
		"false", "head", "id", "ln", "ls", "md5sum", "mkdir", "mknod", "mv", "od", "printf", "readlink", "rm",
		"rmdir", "seq", "sha256sum", "sleep", "sort", "stat", "tail", "test", "timeout", "touch", "tr", "true",
		"truncate", "uname", "wc",
	}},
	{pkg: "diffutils", programs: []string{"cmp"}},
	{pkg: "grep", programs: []string{"grep"}},
	{pkg: "e2fsprogs", trees: []string{"/etc/mke2fs.conf"}, programs: []string{
		"mke2fs", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "e2fsck", "fsck.ext2", "fsck.ext3", "fsck.ext4",
		"resize2fs", "dumpe2fs", "tune2fs", "e2label", "debugfs",
	}},
	// The settings under mkfs/ make file systems that older kernels can mount.
	{pkg: "xfsprogs", trees: []string{"/usr/share/xfsprogs"}, programs: []string{
		"mkfs.xfs", "fsck.xfs", "xfs_repair", "xfs_growfs", "xfs_io", "xfs_db", "xfs_info", "xfs_spaceman",
		"xfs_admin",
	}},
	{pkg: "mount", programs: []string{"mount", "umount"}},
	{pkg: "util-linux", programs: []string{
		"blkid", "blockdev", "fsck", "findmnt", "lsblk", "fsfreeze", "fstrim", "mountpoint", "wipefs",
		"nsenter", "flock", "dmesg",
	}},
	{pkg: "kmod", programs: []string{"modprobe", "lsmod"}},
}

// dirs are there whatever is in them; mount points of the container are made in advance
// so that the root may be read-only.
var dirs = map[string]uint32{
	"/dev": 0o755, "/etc": 0o755, "/proc": 0o555, "/root": 0o700, "/run": 0o755, "/sys": 0o555,
	"/tmp": 0o1777, "/usr/bin": 0o755, "/usr/sbin": 0o755, "/usr/lib": 0o755, "/usr/lib64": 0o755,
	"/var/lib/strata": 0o700, "/var/lib/strata-node": 0o700, "/var/tmp": 0o1777,
}

// links are there always.
var links = map[string]string{
	"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64",
	"/etc/mtab": "/proc/self/mounts",
}

// texts are files that belong to no package. 65532 is whom a controller runs as.
var texts = map[string]string{
	"/etc/group":         "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\nnonroot:x:65532:\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n" +
		"nonroot:x:65532:65532:nonroot:/tmp:/bin/false\n",
}
