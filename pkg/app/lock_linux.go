package app

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/store"
)

// dirLock is the exclusive right to a data directory.
type dirLock struct{ dir *os.File }

// lockDir takes the right to a directory that exists. While another process has it:
// ErrInUse, naming that process if it can be seen.
func lockDir(path string) (*dirLock, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &dirLock{dir: dir}, nil
	}
	defer dir.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("data directory %s is served by %s: %w", path, holder(dir), store.ErrInUse)
	}
	return nil, fmt.Errorf("lock the data directory %s: %w", path, err)
}

// unlock gives the right back.
func (l *dirLock) unlock() error { return l.dir.Close() }

// holder names the process that has a lock on f.
func holder(f *os.File) string {
	const unseen = "another process"
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return unseen
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unseen
	}
	defer locks.Close()
	// "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", see proc_locks(5). Some
	// file systems show another device there than stat does, so only the inode counts.
	suffix := fmt.Sprintf(":%d", st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], suffix) {
			continue
		}
		if comm, err := os.ReadFile("/proc/" + fields[4] + "/comm"); err == nil {
			return fmt.Sprintf("process %s (%s)", fields[4], strings.TrimSpace(string(comm)))
		}
	}
	return unseen
}
