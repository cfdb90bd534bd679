package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/store"
)

const defaultFS = "ext4"

// xfsOptions is where xfsprogs keeps the features that Linux 6.1 can mount. Later versions
// of mkfs.xfs turn on others. Version 6.1 and older need no telling; the file that 6.1 has
// is one that it cannot read.
const xfsOptions = "/usr/share/xfsprogs/mkfs/lts_6.1.conf"

// xfsArgs are the arguments that keep mkfs.xfs to what Linux 6.1 can mount.
func (s *Service) xfsArgs(ctx context.Context) []string {
	out, err := s.cfg.Exec.CommandContext(ctx, "mkfs.xfs", "-V").CombinedOutput()
	if err != nil {
		return nil // mkfs.xfs itself will tell
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "mkfs.xfs version %d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor <= 1 {
		return nil
	}
	if _, err := os.Stat(xfsOptions); err != nil {
		return nil
	}
	return []string{"-c", "options=" + xfsOptions}
}

func known(fsType string) bool { return fsType == "ext4" || fsType == "ext3" || fsType == "xfs" }

// checkFS refuses what cannot be offered.
func checkFS(fsType string) error {
	switch {
	case fsType == "" || known(fsType):
		return nil
	case fsType == "btrfs":
		return fmt.Errorf("file system btrfs: a clone would have the id of its source, and both could not be mounted on one node; use ext4, ext3 or xfs: %w", store.ErrInvalid)
	}
	return fmt.Errorf("file system %q: use ext4, ext3 or xfs: %w", fsType, store.ErrInvalid)
}

// readOnly tells whether mount options ask for it.
func readOnly(flags []string) bool { return slices.Contains(flags, "ro") }

// mkfs makes a file system and waits until it is durable. The device is known to be
// blank, so nothing is discarded first.
func (s *Service) mkfs(ctx context.Context, fsType, device string) error {
	var args []string
	switch fsType {
	case "ext4", "ext3":
		args = []string{"-F", "-q", "-m0", "-E", "nodiscard", device}
	case "xfs":
		args = append(s.xfsArgs(ctx), "-f", "-q", "-K", device)
	default:
		return checkFS(fsType)
	}
	out, err := s.cfg.Exec.CommandContext(ctx, "mkfs."+fsType, args...).CombinedOutput()
	if errors.Is(err, utilexec.ErrExecutableNotFound) {
		return fmt.Errorf("mkfs.%s is not installed on this node: %w", fsType, ErrState)
	}
	if err != nil {
		return fmt.Errorf("mkfs.%s %s: %w: %s", fsType, device, err, brief(out))
	}
	return s.flush(ctx, device)
}

// flush makes what was written to a device durable, in a process of its own, see
// readEdges.
func (s *Service) flush(ctx context.Context, device string) error {
	if out, err := s.cfg.Exec.CommandContext(ctx, "sync", device).CombinedOutput(); err != nil {
		return fmt.Errorf("flush %s: %w: %s", device, err, brief(out))
	}
	return nil
}

// Bits of fsck's exit code.
const (
	fsckCorrected   = 1
	fsckUncorrected = 4
)

// repair replays the journal of an ext file system and corrects what is safe to. XFS
// does that when it is mounted.
func (s *Service) repair(ctx context.Context, fsType, device string) error {
	if fsType != "ext4" && fsType != "ext3" {
		return nil
	}
	out, err := s.cfg.Exec.CommandContext(ctx, "fsck."+fsType, "-p", device).CombinedOutput()
	var exit utilexec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return fmt.Errorf("fsck.%s %s: %w", fsType, device, err) // it was ended, and has found nothing
	}
	if errors.As(err, &exit) && exit.ExitStatus()&fsckUncorrected != 0 {
		return fmt.Errorf("the file system on %s is damaged; run fsck.%s by hand on a clone or with the volume detached: %s: %w",
			device, fsType, brief(out), store.ErrCorrupt)
	}
	// Other failures are of fsck itself. Mounting will tell.
	return nil
}

// mountFS mounts a device at the staging path.
func (s *Service) mountFS(ctx context.Context, v *volume, fsType string, req Request) error {
	device := v.record().Device
	ro := v.mountedReadOnly()
	if !ro {
		v.at("being checked")
		if err := s.repair(ctx, fsType, device); err != nil {
			return err
		}
	}
	v.at("being mounted")
	var options []string
	if ro {
		options = append(options, "ro")
	}
	if fsType == "xfs" {
		options = append(options, "nouuid") // a clone has the id of its source
	}
	if err := s.cfg.Mounter.MountSensitive(device, req.Path, fsType, options, req.Capability.Flags); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// mountedReadOnly tells whether nothing may be written through the staging path.
func (v *volume) mountedReadOnly() bool {
	r := v.record()
	return r.Capability.ReadOnly || readOnly(r.Capability.Flags) ||
		r.Ticket.Access == store.AccessRead || r.Ticket.Access == store.AccessScratch
}

// grow makes a mounted file system as large as its device.
func (s *Service) grow(v *volume, mounted string) error {
	if v.mountedReadOnly() {
		return nil
	}
	device := v.record().Device
	v.at("having its file system grown")
	need, err := s.resize.NeedResize(device, mounted)
	if err != nil {
		return fmt.Errorf("grow the file system on %s: %w", device, err)
	}
	if !need {
		return nil
	}
	if _, err := s.resize.Resize(device, mounted); err != nil {
		if strings.Contains(err.Error(), "Permission denied") {
			return fmt.Errorf("grow the file system (the kernel wants CAP_SYS_RESOURCE for that, and a file system without errors): %w", err)
		}
		return fmt.Errorf("grow the file system: %w", err)
	}
	return nil
}

// brief is the end of what a program has said.
func brief(out []byte) string {
	const most = 1000
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return string(out)
}
