package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
// It needs CAP_SYS_RESOURCE and Linux 5.6, and errCgo says that this binary cannot.
func becomeIOFlusher() error {
	if os.Getenv(reexecuted) != "" {
		return assertIOFlusher("/proc/self/task")
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	if err := explainIOFlusher(errno); err != nil {
		return err
	}
	return assertIOFlusher("/proc/self/task")
}

// errCgo: cgo keeps threads out of the runtime's reach, so that no mark can be set on
// those that exist.
var errCgo = errors.New("this binary was built with cgo, which keeps threads out of reach; build it with CGO_ENABLED=0")

func explainIOFlusher(errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: %w", errCgo)
	case syscall.EPERM:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: the process needs CAP_SYS_RESOURCE: %w", errno)
	case syscall.EINVAL:
		return fmt.Errorf("set PR_SET_IO_FLUSHER: the kernel is older than 5.6: %w", errno)
	}
	return fmt.Errorf("set PR_SET_IO_FLUSHER: %w", errno)
}

// reexecuted is set in the environment of a process that has executed itself anew, so
// that it does so once.
const reexecuted = "STRATA_IO_FLUSHER"

// reexecAsIOFlusher marks one thread and executes the program anew from it: the mark is
// kept over that, the thread is then the only one, and all later ones inherit it. It
// returns only with an error. Nothing may have been begun that must not be dropped.
func reexecAsIOFlusher() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	if err := explainIOFlusher(errno); err != nil {
		return err
	}
	// Not by its path, which may lead to another version by now.
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), reexecuted+"=1"))
	return fmt.Errorf("execute this program anew, marked as I/O flusher: %w", err)
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
