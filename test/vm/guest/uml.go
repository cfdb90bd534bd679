package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// umlCommand writes the job and returns how user-mode-linux is started with it.
func umlCommand(ctx context.Context, dir string, m Machine, c Command) ([]string, error) {
	const kernel = "/usr/bin/linux.uml"
	modules, err := filepath.Glob("/usr/lib/uml/modules/*/modules.dep")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(kernel); err != nil || len(modules) != 1 {
		return nil, errors.New("user-mode-linux is not installed: run hack/setup.sh as root")
	}
	file, err := buildInit(ctx, dir)
	if err != nil {
		return nil, err
	}
	j := job(m, c)
	j.RootType = "hostfs"
	j.Channel = "/dev/ttyS0"
	j.ModuleDir = filepath.Dir(modules[0])
	disk, err := makeDisk(dir, m)
	if err != nil {
		return nil, err
	}
	line := []string{
		kernel,
		fmt.Sprintf("mem=%dM", m.MemoryMiB),
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=" + file,
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=null,fd:3",
		"uml_dir=" + dir, "umid=guest", "quiet", "panic=-1", "log_buf_len=4M",
		wire.Parameter + filepath.Join(dir, "job"),
	}
	if disk != "" {
		line = append(line, "ubd0="+disk)
		j.Disk, j.DiskFS = "/dev/ubda", m.DiskFS
	}
	if err := writeJob(filepath.Join(dir, "job"), j); err != nil {
		return nil, err
	}
	memory, err := umlMemoryDir(m)
	if err != nil {
		return nil, err
	}
	return append([]string{"/usr/bin/env", "TMPDIR=" + memory}, line...), nil
}

// umlMemoryDir returns where the guest's memory, a file mapped for execution, goes:
// a tmpfs with room and without noexec, else the disk, where write-back costs time.
func umlMemoryDir(m Machine) (string, error) {
	for _, dir := range []string{"/dev/shm", os.TempDir()} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_NOEXEC != 0 {
			continue
		}
		if fs.Bavail*uint64(fs.Bsize) > uint64(m.MemoryMiB)<<20 {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no room for %d MiB of memory in /dev/shm or %s, or both forbid execution", m.MemoryMiB, os.TempDir())
}
