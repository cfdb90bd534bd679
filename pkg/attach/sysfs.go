package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const sector = 512 // the unit of sizes in sysfs, whatever the block size

func (k *Kernel) sys(index int, file ...string) string {
	return filepath.Join(append([]string{k.cfg.Sys, "block", "nbd" + strconv.Itoa(index)}, file...)...)
}

func (k *Kernel) node(index int) string {
	return filepath.Join(k.cfg.Dev, "nbd"+strconv.Itoa(index))
}

// missing: a file of a device that goes away answers ENODEV or ENXIO when it was
// opened before.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || is(err, unix.ENODEV, unix.ENXIO)
}

func (k *Kernel) attr(index int, file ...string) (string, error) {
	b, err := os.ReadFile(k.sys(index, file...))
	return strings.TrimSpace(string(b)), err
}

func (k *Kernel) number(index int, file ...string) (int64, error) {
	s, err := k.attr(index, file...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", k.sys(index, file...), err)
	}
	return n, nil
}

// setAttr writes a file of sysfs, which must not be created where it is missing.
func (k *Kernel) setAttr(index int, value string, file ...string) error {
	f, err := os.OpenFile(k.sys(index, file...), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// indexes lists the NBD devices that exist, connected or not, in order.
func (k *Kernel) indexes() ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(k.cfg.Sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var all []int
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "nbd")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(digits); err == nil && n >= 0 && digits == strconv.Itoa(n) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// look reads a connected device. A device that is not connected is ErrGone.
func (k *Kernel) look(index int) (Device, error) {
	d := Device{Index: index, Path: k.node(index)}
	backend, err := k.attr(index, "backend")
	if err != nil {
		return d, k.lookError(index, err)
	}
	d.Backend = backend
	for _, f := range []struct {
		to   func(int64)
		name []string
	}{
		{func(n int64) { d.Size = n * sector }, []string{"size"}},
		{func(n int64) { d.BlockSize = int(n) }, []string{"queue", "logical_block_size"}},
		{func(n int64) { d.ReadOnly = n != 0 }, []string{"ro"}},
		{func(n int64) { d.PID = int(n) }, []string{"pid"}},
	} {
		n, err := k.number(index, f.name...)
		if err != nil {
			return d, k.lookError(index, err)
		}
		f.to(n)
	}
	return d, nil
}

func (k *Kernel) lookError(index int, err error) error {
	if missing(err) {
		return fmt.Errorf("nbd%d: %w", index, ErrGone)
	}
	return fmt.Errorf("look at nbd%d: %w", index, err)
}

// same fails with ErrGone unless the index still has the device's backend.
func (k *Kernel) same(d Device) (Device, error) {
	now, err := k.look(d.Index)
	if err != nil {
		return now, err
	}
	if now.Backend != d.Backend || !strings.HasPrefix(d.Backend, Prefix) {
		return now, fmt.Errorf("%s: %w: the index has backend %q now", d, ErrGone, now.Backend)
	}
	return now, nil
}

// Devices lists the devices that are ours: connected, by whatever process, under a
// backend identifier that begins with Prefix. In order of their indexes.
func (k *Kernel) Devices(ctx context.Context) ([]Device, error) {
	return k.list(ctx, func(backend string) bool { return strings.HasPrefix(backend, Prefix) })
}

// Find lists the devices with that backend identifier, which is one of ours, or none. It
// costs one small file of sysfs a device of the host.
func (k *Kernel) Find(ctx context.Context, backend string) ([]Device, error) {
	return k.list(ctx, func(have string) bool { return have == backend && strings.HasPrefix(have, Prefix) })
}

func (k *Kernel) list(ctx context.Context, wanted func(backend string) bool) ([]Device, error) {
	all, err := k.indexes()
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	var list []Device
	for _, i := range all {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("attach: list devices: %w", err)
		}
		backend, err := k.attr(i, "backend")
		if missing(err) || err == nil && !wanted(backend) {
			continue
		}
		d, err := k.look(i)
		if errors.Is(err, ErrGone) || err == nil && !wanted(d.Backend) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attach: %w", err)
		}
		list = append(list, d)
	}
	return list, nil
}

// Free counts the indexes of the range that nobody uses: how many more devices this
// node can attach.
func (k *Kernel) Free() (int, error) {
	free, err := k.free()
	if err != nil {
		return 0, fmt.Errorf("attach: %w", err)
	}
	return len(free), nil
}

// free lists the indexes of the range without a connected device, beginning with the
// one after that which was taken last: an index that has just been given up may still
// be on its way out.
func (k *Kernel) free() ([]int, error) {
	all, err := k.indexes()
	if err != nil {
		return nil, err
	}
	used := map[int]bool{}
	for _, i := range all {
		if _, err := os.Stat(k.sys(i, "pid")); err == nil {
			used[i] = true
		}
	}
	k.mu.Lock()
	from := k.next
	k.mu.Unlock()
	n := k.cfg.Last - k.cfg.First + 1
	var free []int
	for i := range n {
		index := k.cfg.First + (from-k.cfg.First+i)%n
		if !used[index] {
			free = append(free, index)
		}
	}
	return free, nil
}

// Moved tells how many bytes were read from and written to the device since it was
// connected, by whatever connections. It serves limits of how much a key may encrypt.
func (k *Kernel) Moved(d Device) (int64, error) {
	n, err := k.stat(d.Index, 2, 6) // sectors read, sectors written
	if err != nil {
		return 0, fmt.Errorf("attach: traffic of %s: %w", d, err)
	}
	return n * sector, nil
}

// completed counts the requests that have been answered.
func (k *Kernel) completed(index int) (int64, error) {
	return k.stat(index, 0, 4) // reads, writes
}

// stat adds up columns of the device's statistics.
func (k *Kernel) stat(index int, columns ...int) (int64, error) {
	s, err := k.attr(index, "stat")
	if err != nil {
		return 0, k.lookError(index, err)
	}
	f := strings.Fields(s)
	var sum int64
	for _, c := range columns {
		if c >= len(f) {
			return 0, fmt.Errorf("statistics of nbd%d: cannot read %q", index, s)
		}
		n, err := strconv.ParseInt(f[c], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("statistics of nbd%d: %w", index, err)
		}
		sum += n
	}
	return sum, nil
}
