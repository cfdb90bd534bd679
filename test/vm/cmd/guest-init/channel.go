package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// openChannel opens the stream of frames to the host.
func openChannel(job wire.Job) (*os.File, error) {
	path := job.Channel
	if path == "" {
		var err error
		if path, err = findPort(30 * time.Second); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if job.Channel == "" {
		return f, nil
	}
	// Bytes, not lines: no echo, no newline translated.
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("open channel %s: %w", path, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("open channel %s: %w", path, err)
	}
	return f, nil
}

// findPort waits for the virtio-serial port and returns its device.
func findPort(timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err == nil && strings.TrimSpace(string(b)) == wire.Port {
				return "/dev/" + filepath.Base(filepath.Dir(n)), nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", errors.New("open channel: no virtio-serial port named " + wire.Port)
		}
	}
}

// drain waits until the host's side of a serial line has taken everything.
func drain(f *os.File) error {
	err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
	if err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("drain channel: %w", err)
	}
	return nil
}

// follower copies the kernel's log to the host.
type follower struct {
	log  *os.File
	done sync.WaitGroup
}

func followKernel(frames *wire.Writer) (*follower, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	f := &follower{log: os.NewFile(uintptr(fd), "/dev/kmsg")}
	f.done.Go(func() {
		record := make([]byte, 8192)
		for {
			n, err := f.log.Read(record)
			if errors.Is(err, unix.EPIPE) {
				continue // records were overwritten before they were read
			}
			if err != nil {
				return
			}
			if err := frames.Write(wire.Kernel, []byte(kernelLine(string(record[:n])))); err != nil {
				return
			}
		}
	})
	return f, nil
}

// stop sends what the log holds by now and ends.
func (f *follower) stop() {
	// A read that would wait has found the end of the log.
	_ = f.log.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	f.done.Wait()
	_ = f.log.Close()
}

// kernelLine makes "6,339,5140900,-;text" read as the console shows it.
func kernelLine(record string) string {
	prefix, text, _ := strings.Cut(record, ";")
	text, _, _ = strings.Cut(text, "\n")
	fields := strings.Split(prefix, ",")
	if len(fields) < 3 {
		return text
	}
	micros, err := time.ParseDuration(fields[2] + "us")
	if err != nil {
		return text
	}
	return fmt.Sprintf("[%12.6f] %s", micros.Seconds(), text)
}
