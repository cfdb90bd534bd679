package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/store"
)

// takeUp compares the records with the kernel's devices and mounts.
func (s *Service) takeUp(ctx context.Context) error {
	records, err := s.book.load(func(err error) { s.cfg.Notify(Event{Kind: Damaged, Err: err}) })
	if err != nil {
		return err
	}
	devices, err := s.cfg.Kernel.Devices(ctx)
	if err != nil && !errors.Is(err, attach.ErrUnsupported) {
		return fmt.Errorf("list the kernel's devices: %w", err)
	}
	for _, r := range records {
		v := s.hold(r.Volume)
		v.rec.Store(r)
		if err := s.reconcile(v, devices); err != nil {
			return fmt.Errorf("take up volume %s: %w", r.Volume, err)
		}
		s.release(v)
	}
	for _, d := range devices {
		ours := slices.ContainsFunc(records, func(r *record) bool { return backendOf(r.Ticket) == d.Backend })
		if !ours {
			s.orphans = append(s.orphans, d)
		}
	}
	return nil
}

// reconcile deals with a record whose device is not there: the host was started anew, or
// somebody has ended the device.
func (s *Service) reconcile(v *volume, devices []attach.Device) error {
	r := v.record()
	there := slices.ContainsFunc(devices, func(d attach.Device) bool {
		return d.Backend == backendOf(r.Ticket) && (!r.Attached || d.Index == r.Index)
	})
	if there {
		return nil
	}
	at, err := s.inUseAt(r)
	if err != nil {
		return err
	}
	switch {
	case at == "" && r.Mapped:
		// Its publication stands, so it is given a device again: see linked.
		return s.update(v, func(r *record) { r.Attached = false })
	case at == "":
		var left error
		if r.MadeDir {
			left = removeDir(r.Staging) // what else is in there is not of this volume
		}
		s.tell(v, Dropped, 0, left)
		return s.drop(v)
	case r.Attached && r.Fenced == "":
		why := fmt.Errorf("its device %s was ended by somebody else, and is mounted at %s still: %w", r.Device, at, store.ErrFenced)
		s.tell(v, Fenced, 0, why)
		return s.update(v, func(r *record) { r.Fenced = why.Error() })
	}
	return nil
}

// inUseAt names a path at which the volume is mounted, "" if there is none.
func (s *Service) inUseAt(r *record) (string, error) {
	at, err := s.publishedAt(r)
	if at != "" || err != nil || r.Staging == "" {
		return at, err
	}
	on, err := s.mountsAt(r.Staging)
	if err != nil || len(on) == 0 {
		return "", err
	}
	return r.Staging, nil
}

// orphan ends a device that no record speaks of, unless somebody uses it. Looking at it
// hangs if its store is away, so nothing waits for that but Close: nobody can bring its
// link back, as the right to it was in the record.
func (s *Service) orphan(d attach.Device) {
	late := time.AfterFunc(s.cfg.CallTimeout, func() {
		s.cfg.Notify(Event{Kind: Orphan, Device: d.Path, Err: fmt.Errorf("%s has no record, and does not answer; to make its I/O fail: nbd-client -d %s: %w", d.Path, d.Path, store.ErrUnavailable)})
	})
	defer late.Stop()
	err := s.unused(s.quit, d)
	if err == nil {
		err = s.cfg.Kernel.Disconnect(s.quit, d)
	}
	s.cfg.Notify(Event{Kind: Orphan, Device: d.Path, Err: err})
}

// unused fails if a device is mounted, claimed or open as far as can be seen from here.
// Like quiesce, it has a program open and flush the device first.
func (s *Service) unused(ctx context.Context, d attach.Device) error {
	if err := s.flush(ctx, d.Path); err != nil {
		return fmt.Errorf("%s has no record: %w", d.Path, err)
	}
	if err := unclaimed(d.Path); err != nil {
		return fmt.Errorf("%s has no record, and is claimed by something: %w", d.Path, err)
	}
	points, err := nodeMounts(d.Path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("%s has no record, and its node is mounted at %s: %w", d.Path, points[0], store.ErrInUse)
	}
	if pid := opener(d.Path); pid != "" {
		return fmt.Errorf("%s has no record, and process %s has it open: %w", d.Path, pid, store.ErrInUse)
	}
	return nil
}

// nodeMounts finds where the node of a device is mounted on a file, as raw block volumes
// are. The usual table of mounts does not tell.
func nodeMounts(device string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var list []string
	for line := range strings.Lines(string(table)) {
		// id, parent, major:minor, root within the file system, mount point, …
		f := strings.Fields(line)
		if len(f) > 4 && f[3] == "/"+filepath.Base(device) {
			list = append(list, f[4])
		}
	}
	return list, nil
}

// opener finds a process that has a device open, "" if none can be seen.
func opener(device string) string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == device {
			return strings.Split(l, "/")[2]
		}
	}
	return ""
}
