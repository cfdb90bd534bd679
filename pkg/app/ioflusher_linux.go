package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Flags of a task in the kernel (include/linux/sched.h) that PR_SET_IO_FLUSHER sets:
// PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
const ioFlusherFlags = 0x00080000 | 0x00100000

// becomeIOFlusher marks every thread as part of the I/O path and proves it. Without
// the mark a thread that allocates memory may wait for dirty pages to be written to
// a device that this very process serves: a deadlock. Threads made later inherit it.
//
// It needs CAP_SYS_RESOURCE, Linux 5.6 and a binary built without cgo.
func becomeIOFlusher() error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	switch errno {
	case 0:
	case syscall.ENOTSUP:
		return errors.New("set PR_SET_IO_FLUSHER: this binary was built with cgo, which keeps threads out of reach; build it with CGO_ENABLED=0")
	case syscall.EPERM:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: the process needs CAP_SYS_RESOURCE: %w", errno)
	case syscall.EINVAL:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: the kernel is older than 5.6: %w", errno)
	default:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: %w", errno)
	}
	return assertIOFlusher("/proc/self/task")
}

// assertIOFlusher reads the flags of every task below dir back.
func assertIOFlusher(dir string) error {
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the threads of this process: %w", err)
	}
	if len(tasks) == 0 {
		return fmt.Errorf("%s lists no threads", dir)
	}
	for _, t := range tasks {
		flags, err := taskFlags(filepath.Join(dir, t.Name(), "stat"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended meanwhile
		}
		if err != nil {
			return err
		}
		if flags&ioFlusherFlags != ioFlusherFlags {
			return fmt.Errorf("PR_SET_IO_FLUSHER did not reach thread %s (flags %#x)", t.Name(), flags)
		}
	}
	return nil
}

// taskFlags reads field 9 of a task's stat file, see proc_pid_stat(5).
func taskFlags(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the flags of a thread: %w", err)
	}
	// Field 2 is the command in parentheses and may itself hold spaces and ')'.
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const at = 9 - 3 // the first field after the command is number 3
	if len(fields) <= at {
		return 0, fmt.Errorf("%s has %d fields after the command", path, len(fields))
	}
	flags, err := strconv.ParseUint(fields[at], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: flags: %w", path, err)
	}
	return flags, nil
}
