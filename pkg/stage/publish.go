package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/mount-utils"

	"github.com/strata-csi/strata/pkg/store"
)

// PublishRequest asks for a staged volume at one more place.
type PublishRequest struct {
	Volume string
	// Staging is where it was staged.
	Staging    string
	Target     Target
	Capability Capability
}

// Publish makes a staged volume appear at a target: a directory with its file system, or
// for raw block a file that is the device. The target is made here. Repeating it is no
// error; the same target with other arguments is store.ErrConflict. A second target of
// an exclusive volume is store.ErrInUse. ErrState: the volume is not staged.
//
// A read-only target of a raw device is a read-only mount of its node, which does not
// keep a process with the right to it from writing; publications for reading do.
func (s *Service) Publish(ctx context.Context, req PublishRequest) error {
	if req.Volume == "" || req.Target.Path == "" {
		return fmt.Errorf("publish: volume and target path are needed: %w", store.ErrInvalid)
	}
	return s.do(ctx, req.Volume, "publish", func(_ context.Context, v *volume) error { return s.publish(v, req) })
}

func (s *Service) publish(v *volume, req PublishRequest) error {
	r := v.record()
	if err := publishable(r, req); err != nil {
		return err
	}
	// Without it, the pod would write into the host's own directory.
	if whole, err := s.stands(r); err != nil || !whole {
		return errors.Join(err, fmt.Errorf("its file system is not mounted at %s any more; stage it again: %w", r.Staging, ErrState))
	}
	known := slices.IndexFunc(r.Targets, func(t Target) bool { return t.Path == req.Target.Path })
	if known >= 0 {
		if !r.Targets[known].equal(req.Target) {
			return fmt.Errorf("it is published at %s in another way: %w", req.Target.Path, store.ErrConflict)
		}
		on, err := s.mountsAt(req.Target.Path)
		if err != nil || len(on) > 0 {
			return err
		}
	} else {
		at, err := s.publishedAt(r)
		if err != nil {
			return err
		}
		if at != "" && r.Capability.Exclusive {
			return fmt.Errorf("it may be published once only, and is at %s: %w", at, store.ErrInUse)
		}
		if err := s.update(v, func(r *record) { r.Targets = append(r.Targets, req.Target) }); err != nil {
			return err
		}
	}
	u := new(undo)
	u.add("forget the target", func(context.Context) error { return s.forget(v, req.Target.Path) })
	s.point.Hit("stage.publish.recorded")
	if err := s.bind(v, req.Target, u); err != nil {
		return u.fail(context.Background(), err)
	}
	return nil
}

// publishable tells why a volume cannot be published as asked.
func publishable(r *record, req PublishRequest) error {
	switch {
	case r == nil || r.Phase != PhaseReady || r.Mapped:
		return fmt.Errorf("it is not staged: %w", ErrState)
	case req.Staging != r.Staging:
		return fmt.Errorf("it is staged at %s, not at %q: %w", r.Staging, req.Staging, ErrState)
	case r.Fenced != "":
		return fmt.Errorf("%s: %w", r.Fenced, store.ErrFenced)
	case r.Capability.Block != req.Capability.Block:
		return fmt.Errorf("raw block and file system cannot be asked for at once: %w", store.ErrInvalid)
	}
	return nil
}

// bind makes the target and mounts the volume there.
func (s *Service) bind(v *volume, t Target, u *undo) error {
	r := v.record()
	v.at("being mounted at " + t.Path)
	source := r.Staging
	if r.Capability.Block {
		source = r.Device
	}
	made, err := makeTarget(t.Path, r.Capability.Block)
	if err != nil {
		return err
	}
	if made {
		u.add("remove the target", func(context.Context) error { return removeDir(t.Path) })
	}
	s.point.Hit("stage.publish.made")
	options := []string{"bind"}
	if t.ReadOnly {
		options = append(options, "ro")
	}
	flags := t.Flags
	if r.Capability.Block {
		flags = nil
	}
	// With options this is two steps of the kernel, the second of which may fail.
	u.add("unmount the target", func(context.Context) error { return s.unmount(t.Path) })
	if err := s.cfg.Mounter.MountSensitive(source, t.Path, "", options, bindFlags(flags)); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s.point.Hit("stage.publish.mounted")
	return nil
}

// bindFlags are those of the options that a bind mount can have; the others belong to
// the file system and were given when it was staged.
func bindFlags(flags []string) []string {
	perMount := []string{"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime"}
	var list []string
	for _, f := range flags {
		if slices.Contains(perMount, f) {
			list = append(list, f)
		}
	}
	return list
}

// makeTarget makes a directory, or an empty file to mount a device on.
func makeTarget(path string, block bool) (made bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir() == block:
		return false, fmt.Errorf("target %s is there and is not what is needed (a directory: %v): %w", path, !block, store.ErrInvalid)
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("target: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	if !block {
		err = os.Mkdir(path, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	return true, nil
}

// forget takes a target out of the record.
func (s *Service) forget(v *volume, path string) error {
	return s.update(v, func(r *record) {
		r.Targets = slices.DeleteFunc(r.Targets, func(t Target) bool { return t.Path == path })
	})
}

// Unpublish takes a volume away from a target and removes the target. That it is not
// there is no error.
func (s *Service) Unpublish(ctx context.Context, id, target string) error {
	if id == "" || target == "" {
		return fmt.Errorf("unpublish: volume and target path are needed: %w", store.ErrInvalid)
	}
	return s.do(ctx, id, "unpublish", func(_ context.Context, v *volume) error { return s.unpublish(v, target) })
}

func (s *Service) unpublish(v *volume, target string) error {
	v.at("being unmounted from " + target)
	if err := s.unmount(target); err != nil {
		return err
	}
	s.point.Hit("stage.unpublish.unmounted")
	// What is left is ours or the CO's, and empty; a mount that died without leaving
	// the table would be seen here.
	if err := removeDir(target); err != nil {
		if !mount.IsCorruptedMnt(err) {
			return err
		}
		if err := mount.CleanupMountPoint(target, s.cfg.Mounter, true); err != nil {
			return fmt.Errorf("clean up %s: %w", target, err)
		}
	}
	s.point.Hit("stage.unpublish.removed")
	r := v.record()
	if r == nil || !slices.ContainsFunc(r.Targets, func(t Target) bool { return t.Path == target }) {
		return nil
	}
	if err := s.forget(v, target); err != nil {
		return err
	}
	s.point.Hit("stage.unpublish.recorded")
	return nil
}
