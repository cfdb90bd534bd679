package stage

import (
	"context"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// The format guard. An image is formatted only if all of this holds:
//
//   - the publication lets this node, and no other, write to the image itself;
//   - the volume was made without a content source: the image has no parent, and the
//     controller does not speak of one;
//   - the store's durable mark says that nobody has used the image and the store holds
//     no data of it, or that a file system was being made and never finished;
//   - the device has the image's size, its two ends could be read past the page cache,
//     and blkid could be asked: a device that answers with errors is never formatted;
//   - in the first of the two cases, the ends are zeros and blkid finds nothing.
//
// The mark moves before and after: begun, then mkfs, then the flush, then the name of
// the file system, then the first mount. A crash in between therefore leaves "begun",
// which stands for "nobody can have stored anything", and mkfs may run again.

// prepare finds the file system to mount, and makes it where that is safe.
func (s *Service) prepare(ctx context.Context, v *volume, conn Connection, info store.Info, req Request) (fsType string, err error) {
	r := v.record()
	v.at("being examined")
	found, err := s.probe(ctx, r.Device, r.Size)
	if err != nil {
		return "", err
	}
	wanted := req.Capability.FS
	if info.Format == store.FormatBegun && r.Ticket.Access == store.AccessWrite {
		// What was found is the torso of an earlier mkfs.
		return s.format(ctx, v, conn, info, req)
	}
	switch {
	case found.other != "":
		return "", fmt.Errorf("image %s holds %s and no file system: %w", info.ID, found.other, ErrState)
	case found.fs == "":
		return s.format(ctx, v, conn, info, req)
	case wanted != "" && found.fs != wanted:
		return "", fmt.Errorf("image %s holds the file system %s, but %s is asked for; set the class's fstype to %s: %w",
			info.ID, found.fs, wanted, found.fs, ErrState)
	case !known(found.fs):
		return "", fmt.Errorf("image %s holds the file system %s, which cannot be mounted: %w", info.ID, found.fs, ErrState)
	}
	if info.Format == store.FormatNone && r.Ticket.Access == store.AccessWrite {
		// Somebody made it by other means. From now on it is known.
		if err := s.mark(ctx, conn, info.ID, store.Format(found.fs)); err != nil {
			return "", err
		}
	}
	return found.fs, nil
}

// format makes a file system if the guard lets it.
func (s *Service) format(ctx context.Context, v *volume, conn Connection, info store.Info, req Request) (string, error) {
	if err := s.mayFormat(ctx, v.record(), conn, info, req); err != nil {
		return "", err
	}
	fsType := req.Capability.FS
	if fsType == "" {
		fsType = defaultFS
	}
	if info.Format == store.FormatNone {
		if err := s.mark(ctx, conn, info.ID, store.FormatBegun); err != nil {
			return "", err
		}
	}
	s.point.Hit("stage.format.begun")
	v.at("being formatted")
	if err := s.mkfs(ctx, fsType, v.record().Device); err != nil {
		return "", err
	}
	s.point.Hit("stage.formatted")
	if err := s.mark(ctx, conn, info.ID, store.Format(fsType)); err != nil {
		return "", err
	}
	s.point.Hit("stage.format.known")
	return fsType, nil
}

// mayFormat is the guard, but for the probe, which the caller has made.
func (s *Service) mayFormat(ctx context.Context, r *record, conn Connection, info store.Info, req Request) error {
	refuse := func(why string) error {
		return fmt.Errorf("no file system was found on image %s, and it is not formatted because %s: %w", info.ID, why, ErrState)
	}
	switch {
	case r.Ticket.Access != store.AccessWrite:
		return refuse("it is published for " + string(r.Ticket.Access) + " only")
	case req.Capability.ReadOnly || readOnly(req.Capability.Flags):
		return refuse("it is to be mounted read-only")
	case req.Sourced || info.Parent != "":
		return refuse("it was made from a snapshot or another volume, whose content it has")
	case info.Format == store.FormatBegun:
		return nil
	case info.Format != store.FormatNone:
		return refuse(fmt.Sprintf("it is marked as used (%s)", info.Format))
	}
	asked, cancel := s.bound(ctx)
	defer cancel()
	u, err := conn.API.Usage(asked, info.ID)
	if err != nil {
		return fmt.Errorf("ask what image %s holds: %w", info.ID, err)
	}
	if n := u.Own + u.Shared; n > 0 {
		return refuse(fmt.Sprintf("the store holds %d bytes of data of it", n))
	}
	blank, err := s.readEdges(ctx, r.Device, r.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", errProbe, err)
	}
	if !blank {
		return refuse("it does not read as zeros although the store holds no data of it")
	}
	return nil
}

// mark moves the image's durable mark forward.
func (s *Service) mark(ctx context.Context, conn Connection, image store.ID, f store.Format) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := conn.API.Modify(ctx, image, store.Change{Format: &f}); err != nil {
		return fmt.Errorf("mark image %s as %q: %w", image, f, err)
	}
	return nil
}

// markRaw marks an image that is going to be handed out as a raw device.
func (s *Service) markRaw(ctx context.Context, conn Connection, info store.Info, t Ticket) error {
	if !t.Access.Writes() || info.Format != store.FormatNone && info.Format != store.FormatBegun {
		return nil
	}
	return s.mark(ctx, conn, info.ID, store.FormatUnknown)
}
