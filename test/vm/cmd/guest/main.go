// Command guest runs a program of this host in a guest kernel; see test/vm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/strata-csi/strata/test/vm/guest"
	"github.com/strata-csi/strata/test/vm/kernellog"
)

func main() {
	code, err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	os.Exit(code)
}

// failure is the exit code when the machine failed and not the command.
const failure = 125

// shown is how many faults of the kernel's log are printed unless all of it is asked for.
const shown = 10

func run(args []string) (int, error) {
	flags := flag.NewFlagSet("guest", flag.ContinueOnError)
	kind := flags.String("kind", string(guest.UML), "`kind` of guest: uml or qemu")
	timeout := flags.Duration("timeout", 5*time.Minute, "the `time` the command may take")
	memory := flags.Int("memory", 0, "memory in `MiB`")
	disk := flags.Int64("disk", 0, "size of a disk for /scratch in `MiB`; 0: /scratch is in memory")
	diskFS := flags.String("disk-fs", "ext4", "file system of the disk")
	modules := flags.String("modules", "nbd,tls", "kernel `modules`, with commas between; parameters follow a name after a space")
	accel := flags.String("accel", os.Getenv("STRATA_VM_ACCEL"), "tcg (the default), or kvm for speed where that works")
	env := flags.String("env", "", "environment for the command: KEY=value, with commas between")
	dir := flags.String("dir", "/", "working directory")
	showKernel := flags.Bool("kernel", false, "print the whole kernel log at the end, not only its faults")
	faultsFail := flags.Bool("faults", false, "fail when the kernel's log holds a fault")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: guest [flags] -- program [argument …]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return 2, err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return 2, errors.New("no program named")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	res, err := guest.Run(ctx, guest.Machine{
		Kind: guest.Kind(*kind), MemoryMiB: *memory, DiskBytes: *disk << 20, DiskFS: *diskFS,
		Modules: split(*modules), Accel: *accel,
	}, guest.Command{Args: flags.Args(), Env: split(*env), Dir: *dir, Timeout: *timeout}, os.Stdout)
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "guest:", n)
	}
	if err != nil {
		return failure, err
	}
	faults := kernellog.Faults(res.Kernel)
	if *showKernel {
		fmt.Fprintln(os.Stderr, strings.Join(res.Kernel, "\n"))
	} else if len(faults) > 0 {
		fmt.Fprintf(os.Stderr, "guest: the kernel told of %d faults, the first of them:\n%s\n",
			len(faults), strings.Join(faults[:min(len(faults), shown)], "\n"))
	}
	fmt.Fprintf(os.Stderr, "guest: %s, booted in %v, off after %v, exit code %d\n",
		*kind, res.Boot.Round(100*time.Millisecond), res.Total.Round(100*time.Millisecond), res.Code)
	if res.Code == 0 && *faultsFail && len(faults) > 0 {
		return 1, errors.New("the kernel's log holds faults")
	}
	return res.Code, nil
}

func split(list string) []string {
	words := []string{}
	for w := range strings.SplitSeq(list, ",") {
		if w != "" {
			words = append(words, w)
		}
	}
	return words
}
