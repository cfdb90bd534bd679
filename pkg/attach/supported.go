package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	leastMajor, leastMinor = 6, 1
	capSysAdmin            = 21
	minorBits              = 20 // of a device number
)

// Supported tells whether this process can attach devices here. Its error wraps
// ErrUnsupported and says what to do.
func (k *Kernel) Supported() error {
	if err := k.release(); err != nil {
		return err
	}
	if err := k.capable(); err != nil {
		return err
	}
	if err := k.family(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(k.cfg.Sys, "block")); err != nil {
		return fmt.Errorf("attach: %w: mount sysfs of the host: %w", ErrUnsupported, err)
	}
	return k.reach()
}

// family asks for the nbd family, bounded: a call that hangs makes this wait too.
func (k *Kernel) family() error {
	leave, err := k.join()
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer leave()
	done, err := k.bounded(k.quit, k.cfg.CallTimeout, func() error {
		c, err := k.cfg.dial()
		if err != nil {
			return fmt.Errorf("%w: open generic netlink: %w", ErrUnsupported, err)
		}
		defer c.Close()
		if _, err := c.GetFamily(familyName); err != nil {
			return k.noFamily(err)
		}
		if k.otherNetns() {
			return k.wrongNetns()
		}
		return nil
	}, k.found)
	if !done {
		err = fmt.Errorf("look for the nbd family: %w: %w", ErrStuck, err)
	}
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// release refuses kernels on which ending a device with waiting requests hangs.
func (k *Kernel) release() error {
	b, err := os.ReadFile(filepath.Join(k.cfg.Proc, "sys/kernel/osrelease"))
	if err != nil {
		return fmt.Errorf("attach: %w: read the kernel's version: %w", ErrUnsupported, err)
	}
	text := strings.TrimSpace(string(b))
	var major, minor int
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("attach: %w: kernel version %q: %w", ErrUnsupported, text, err)
	}
	if major < leastMajor || major == leastMajor && minor < leastMinor {
		return fmt.Errorf("attach: %w: the kernel is %s; install %d.%d or newer", ErrUnsupported, text, leastMajor, leastMinor)
	}
	return nil
}

func (k *Kernel) capable() error {
	b, err := os.ReadFile(filepath.Join(k.cfg.Proc, "self/status"))
	if err != nil {
		return fmt.Errorf("attach: %w: read the capabilities: %w", ErrUnsupported, err)
	}
	for line := range strings.Lines(string(b)) {
		mask, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err != nil {
			return fmt.Errorf("attach: %w: capabilities %q: %w", ErrUnsupported, mask, err)
		}
		if set&(1<<capSysAdmin) == 0 {
			return fmt.Errorf("attach: %w: the process needs CAP_SYS_ADMIN; run it as root, in Kubernetes as a privileged container", ErrUnsupported)
		}
	}
	return nil
}

// noFamily says why the kernel knows no nbd family.
func (k *Kernel) noFamily(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: look for the nbd family: %w", ErrUnsupported, err)
	}
	if _, statErr := os.Stat(filepath.Join(k.cfg.Sys, "module/nbd")); statErr != nil {
		return fmt.Errorf("%w: the kernel module nbd is not loaded; on the host run: modprobe nbd, and name it in /etc/modules-load.d", ErrUnsupported)
	}
	if k.otherNetns() {
		return k.wrongNetns()
	}
	return fmt.Errorf("%w: the module nbd is loaded but not reachable: %w", ErrUnsupported, err)
}

// wrongNetns: some kernels answer in other namespaces too, but TCP sockets made there end
// with them, and reports of dead connections do not come through.
func (k *Kernel) wrongNetns() error {
	return fmt.Errorf("%w: this is not the initial network namespace; run with the host's network (hostNetwork: true)", ErrUnsupported)
}

// otherNetns tells whether this is not the initial network namespace: some settings of
// the network exist there alone.
func (k *Kernel) otherNetns() bool {
	_, err := os.Stat(filepath.Join(k.cfg.Proc, "sys/net/core/dev_weight"))
	return errors.Is(err, fs.ErrNotExist)
}

// reach checks that the module can number devices up to the end of the range.
func (k *Kernel) reach() error {
	b, err := os.ReadFile(filepath.Join(k.cfg.Sys, "module/nbd/parameters/max_part"))
	if err != nil {
		return nil // built in or hidden: Connect will tell
	}
	parts, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return fmt.Errorf("attach: %w: max_part of the module: %w", ErrUnsupported, err)
	}
	if last := 1<<(minorBits-bits.Len64(parts)) - 1; k.cfg.Last > last {
		return fmt.Errorf("attach: %w: with max_part=%d the last index is %d; end the range there or load nbd with a smaller max_part", ErrUnsupported, parts, last)
	}
	return nil
}
