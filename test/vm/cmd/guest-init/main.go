// Command guest-init is the first process of a guest kernel. It makes the host's tree
// the root, read-only below a layer in memory, runs one command in it, sends its
// output, the kernel's log and the exit code to the host, and switches the machine off.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest-init: this is the first process of a guest kernel, see test/vm")
		os.Exit(2)
	}
	if err := run(); err != nil {
		// The console is all there is when there is no channel.
		fmt.Fprintln(os.Stderr, "guest-init:", err)
	}
	// No sync: nothing here is kept, and a device may be dead.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guest-init: power off:", err)
	}
}

func run() error {
	if err := mountKernel(""); err != nil {
		return err
	}
	path, err := jobPath()
	if err != nil {
		return err
	}
	job, err := wire.Read(path)
	if err != nil {
		return err
	}
	for _, kv := range job.Env {
		key, value, _ := strings.Cut(kv, "=")
		if err := os.Setenv(key, value); err != nil {
			return fmt.Errorf("set environment: %w", err)
		}
	}
	if err := loadModules("/lib/modules", job.BootModules); err != nil {
		return err
	}
	channel, err := openChannel(job)
	if err != nil {
		return err
	}
	frames := wire.NewWriter(channel)
	code, err := prepareAndExec(job, frames)
	if err != nil {
		err = errors.Join(err, frames.Write(wire.Note, []byte(err.Error())))
		code = 125
	}
	return errors.Join(err, frames.Write(wire.Exit, []byte(strconv.Itoa(code))), drain(channel))
}

// prepareAndExec makes the guest a place to work in and runs the job's command there.
func prepareAndExec(job wire.Job, frames *wire.Writer) (int, error) {
	log, err := followKernel(frames)
	if err != nil {
		return 0, err
	}
	defer log.stop()
	if err := switchRoot(job); err != nil {
		return 0, err
	}
	if err := furnish(job); err != nil {
		return 0, err
	}
	return execute(job, frames)
}

// jobPath finds the job in the kernel's command line.
func jobPath() (string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("read command line: %w", err)
	}
	for _, word := range strings.Fields(string(line)) {
		if path, ok := strings.CutPrefix(word, wire.Parameter); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s in the kernel's command line", wire.Parameter)
}
