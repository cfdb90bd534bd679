package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/store"
)

// mountsAt lists what is mounted at a path, the topmost last. It reads the kernel's
// table and looks at nothing that is mounted: that could hang.
func (s *Service) mountsAt(path string) ([]mount.MountPoint, error) {
	all, err := s.cfg.Mounter.List()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	path = tablePath(path)
	var list []mount.MountPoint
	for _, m := range all {
		if m.Path == path {
			list = append(list, m)
		}
	}
	return list, nil
}

// tablePath is a path as the kernel's table of mounts writes it.
func tablePath(path string) string {
	dir, base := filepath.Split(filepath.Clean(path))
	if real, err := filepath.EvalSymlinks(dir); err == nil { // not the path itself: see mountsAt
		path = filepath.Join(real, base)
	}
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path)
}

// unmountLimit bounds how many mounts on top of each other are taken away in one call.
const unmountLimit = 64

// unmount takes away all that is mounted at a path. That nothing is, or that there is
// no such path, is no error.
func (s *Service) unmount(path string) error {
	for range unmountLimit {
		on, err := s.mountsAt(path)
		if err != nil {
			return err
		}
		if len(on) == 0 {
			return nil
		}
		if err := s.cfg.Mounter.Unmount(path); err != nil {
			if now, e := s.mountsAt(path); e == nil && len(now) < len(on) {
				continue // somebody else was faster
			}
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: more than %d mounts are on it: %w", path, unmountLimit, ErrState)
}

// publishedAt names a target of the volume that is mounted, "" if none is.
func (s *Service) publishedAt(r *record) (string, error) {
	for _, t := range r.Targets {
		on, err := s.mountsAt(t.Path)
		if err != nil {
			return "", err
		}
		if len(on) > 0 {
			return t.Path, nil
		}
	}
	return "", nil
}

// missingDir tells whether a directory has to be made. What is there must be one.
func missingDir(path string) (bool, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil && mount.IsCorruptedMnt(err):
		return false, nil // a dead mount, which is about to be taken away
	case err != nil:
		return false, fmt.Errorf("staging path: %w", err)
	case !info.IsDir():
		return false, fmt.Errorf("staging path %s is no directory: %w", path, store.ErrInvalid)
	}
	return false, nil
}

// removeDir removes an empty directory, and does not mind if it is gone.
func removeDir(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// quiesce makes sure that nothing mounts the device any more, in any mount namespace,
// and writes back what is in its cache.
//
// The device is opened here only after a program has done so and has flushed it: the
// first one to open a device reads its partitions, the last one to close it writes back,
// and both wait for the store without end.
func (s *Service) quiesce(ctx context.Context, r *record) error {
	devices, err := s.cfg.Kernel.Find(ctx, backendOf(r.Ticket))
	if err != nil {
		return fmt.Errorf("look for %s: %w", r.Device, err)
	}
	if !slices.ContainsFunc(devices, func(d attach.Device) bool { return d.Index == r.Index }) {
		return nil // it was ended
	}
	if err := s.flush(ctx, r.Device); err != nil {
		return err
	}
	err = unclaimed(r.Device)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s is still mounted, perhaps in a container that has not ended: %w", r.Device, ErrState)
	}
	return err
}

// unclaimed fails with EBUSY if a file system or another owner has claimed a device: that
// is what O_EXCL without O_CREAT asks of one.
func unclaimed(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("claim the device: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", device, err)
	}
	return nil
}
