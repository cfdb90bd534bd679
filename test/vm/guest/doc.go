// Package guest runs a program of the host in a guest kernel: user-mode-linux, or
// Debian's kernel in QEMU.
//
// A guest has no image. Its root is the host's own tree, read-only below a layer in
// memory: every path of the host, the program and the shared libraries it needs too,
// is where it is on the host, and what the guest writes is gone with it. /scratch, the
// guest's TMPDIR, is a file system of its own: a tmpfs, or a disk. /run, /dev/shm and
// /sys/fs/cgroup are fresh, mounts are shared as an init system leaves them, and the
// only network is a loopback interface; more "hosts" are network namespaces joined by
// veth.
//
// One guest runs one command and is off when that has ended. The kernel's log is part
// of the result.
//
// Invariants: a guest ends with the process that started it, however that ends, and
// has no way to write to the host. Nothing waits without a bound: a command that takes
// too long is asked for its stacks and the kernel for its blocked tasks before the
// guest is ended.
//
// Not done here: devices passed through, guests that talk to each other.
package guest
