package stage

import (
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// mounter mounts and unmounts by programs that are started like all others: both read and
// write the device, and may hang on it. The library would start them by itself.
type mounter struct {
	mount.Interface
	exec utilexec.Interface
}

// NewMounter makes a mounter whose programs are started by exec.
func NewMounter(exec utilexec.Interface) mount.Interface {
	// A mount of ours has no process that systemd would have to keep alive.
	return mounter{mount.NewWithoutSystemd(""), exec}
}

// MountSensitive implements mount.Interface. No error repeats options of either kind.
func (m mounter) MountSensitive(source, target, fsType string, options, sensitive []string) error {
	bind, first, then, secret := mount.MakeBindOptsSensitive(options, sensitive)
	if !bind {
		return m.mount(source, target, fsType, options, sensitive)
	}
	if err := m.mount(source, target, fsType, first, nil); err != nil {
		return err
	}
	// The kernel takes options of a bind mount in a second step only, in which those that
	// are not named are dropped.
	kept, err := mountedWith(source)
	if err != nil {
		return err
	}
	return m.mount(source, target, fsType, append(then, kept...), secret)
}

func (m mounter) mount(source, target, fsType string, options, sensitive []string) error {
	args, _ := mount.MakeMountArgsSensitive(source, target, fsType, options, sensitive)
	if out, err := m.exec.Command("mount", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s at %s: %w: %s", source, target, err, brief(out))
	}
	return nil
}

// mountedWith lists the options of the mount that a path is on.
func mountedWith(path string) ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	var list []string
	// statfs has the numbers of mount(2) for these.
	for _, o := range []struct {
		flag int64
		name string
	}{
		{unix.MS_RDONLY, "ro"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"},
		{unix.MS_NOSUID, "nosuid"}, {unix.MS_NOATIME, "noatime"}, {unix.MS_NODIRATIME, "nodiratime"},
	} {
		if st.Flags&o.flag != 0 {
			list = append(list, o.name)
		}
	}
	return list, nil
}

// Unmount implements mount.Interface.
func (m mounter) Unmount(target string) error {
	if out, err := m.exec.Command("umount", target).CombinedOutput(); err != nil {
		return fmt.Errorf("umount %s: %w: %s", target, err, brief(out))
	}
	return nil
}
