package stage

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/strata-csi/strata/pkg/store"
)

func (r Request) check() error {
	switch {
	case r.Volume == "" || r.Path == "":
		return fmt.Errorf("volume and staging path are needed: %w", store.ErrInvalid)
	case r.Ticket.Pool == "" || r.Ticket.Store == "" || !store.IsID(string(r.Ticket.Image)) || r.Ticket.Epoch == 0 || r.Ticket.Token == "":
		return fmt.Errorf("the volume was not published to this node: %w", ErrState)
	case !r.Ticket.Access.Valid():
		return fmt.Errorf("access %q of the publication: %w", r.Ticket.Access, store.ErrInvalid)
	case r.Capability.Block:
		return nil
	case r.Ticket.Access == store.AccessShared:
		return fmt.Errorf("a file system cannot be written by several nodes; use a raw block volume: %w", store.ErrInvalid)
	}
	return checkFS(r.Capability.FS)
}

// Stage makes the volume a device and, unless it is a raw block volume, mounts it at the
// staging path. Repeating it is no error; staging what is staged in another way is
// store.ErrConflict. ErrState says that it cannot be done, store.ErrFenced that the
// publication was withdrawn.
func (s *Service) Stage(ctx context.Context, req Request) error {
	if err := req.check(); err != nil {
		return fmt.Errorf("stage volume %s: %w", req.Volume, err)
	}
	return s.do(ctx, req.Volume, "stage", func(ctx context.Context, v *volume) error { return s.stage(ctx, v, req) })
}

func (s *Service) stage(ctx context.Context, v *volume, req Request) error {
	done, err := s.standing(ctx, v, req)
	if done || err != nil {
		return err
	}
	conn, info, err := s.find(ctx, req.Ticket)
	if err != nil {
		return err
	}
	u := new(undo)
	if err := s.build(ctx, v, conn, info, req, u); err != nil {
		return u.fail(ctx, err)
	}
	return nil
}

// standing deals with what an earlier call has left: it is what is asked for, or it is
// taken back, but for the record, whose generation is still needed.
func (s *Service) standing(ctx context.Context, v *volume, req Request) (done bool, err error) {
	r := v.record()
	if r == nil {
		return false, s.noStranger(ctx, v, req)
	}
	if r.Mapped {
		return false, fmt.Errorf("it is mapped on this node as %s; unmap it first: %w", r.Device, store.ErrInUse)
	}
	same := r.Ticket.Image == req.Ticket.Image && r.Ticket.Epoch == req.Ticket.Epoch
	if same && r.Fenced != "" {
		return false, fmt.Errorf("%s: %w", r.Fenced, store.ErrFenced)
	}
	if same && r.Phase == PhaseReady {
		if r.Staging != req.Path || !r.Capability.equal(req.Capability) {
			return false, fmt.Errorf("it is staged at %s with another capability: %w", r.Staging, store.ErrConflict)
		}
		whole, err := s.stands(r)
		if whole || err != nil {
			return whole, err
		}
	}
	if at, err := s.publishedAt(r); err != nil || at != "" {
		return false, errors.Join(err, fmt.Errorf("an earlier publication of it is still in use at %s; unpublish that first: %w", at, ErrState))
	}
	return false, s.dismantle(ctx, v)
}

// noStranger makes sure that a volume without a record has nothing on this node. A device
// whose record was lost, and which Open has left because it is in use, would be cut off by
// another one. A mount without such a device is dead.
func (s *Service) noStranger(ctx context.Context, v *volume, req Request) error {
	if err := s.alone(v, req.Ticket.Image); err != nil {
		return err
	}
	devices, err := s.cfg.Kernel.Find(ctx, backendOf(req.Ticket))
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		return fmt.Errorf("%s serves it already, has no record and is in use; end the pods that use it, then start the node's process anew: %w", devices[0].Path, ErrState)
	}
	return s.unmount(req.Path)
}

// stands tells whether what the record speaks of is really there.
func (s *Service) stands(r *record) (bool, error) {
	if r.FS == "" {
		return true, nil
	}
	on, err := s.mountsAt(r.Staging)
	if err != nil {
		return false, err
	}
	return len(on) > 0 && on[len(on)-1].Device == r.Device, nil
}

// build does the steps of Stage, each with its undo.
func (s *Service) build(ctx context.Context, v *volume, conn Connection, info store.Info, req Request, u *undo) error {
	made, err := missingDir(req.Path)
	if err != nil {
		return err
	}
	r := &record{
		Volume: req.Volume, Phase: PhaseAttaching, Ticket: req.Ticket,
		Staging: req.Path, MadeDir: made, Capability: req.Capability,
	}
	if old := v.record(); old != nil && old.Ticket.Epoch == r.Ticket.Epoch {
		r.Generation = old.Generation
		r.MadeDir = r.MadeDir || old.MadeDir
	}
	if err := s.put(v, r); err != nil {
		return err
	}
	u.add("remove the record", func(context.Context) error { return s.drop(v) })
	v.conn.reset()
	s.point.Hit("stage.recorded")
	if err := s.alone(v, req.Ticket.Image); err != nil {
		return err
	}
	if made {
		if err := os.MkdirAll(req.Path, 0o750); err != nil {
			return fmt.Errorf("staging path: %w", err)
		}
		u.add("remove the staging path", func(context.Context) error { return removeDir(req.Path) })
	}
	if err := s.attach(ctx, v, conn, info, u); err != nil {
		return err
	}
	fsType := ""
	if req.Capability.Block {
		err = s.markRaw(ctx, conn, info, req.Ticket)
	} else {
		fsType, err = s.fileSystem(ctx, v, conn, info, req, u)
	}
	if err != nil {
		return err
	}
	if err := s.update(v, func(r *record) { r.Phase, r.FS = PhaseReady, fsType }); err != nil {
		return err
	}
	s.point.Hit("stage.done")
	return nil
}

// fileSystem puts a file system on the device, or finds it, and mounts it.
func (s *Service) fileSystem(ctx context.Context, v *volume, conn Connection, info store.Info, req Request, u *undo) (string, error) {
	fsType, err := s.prepare(ctx, v, conn, info, req)
	if err != nil {
		return "", err
	}
	if err := s.mountFS(ctx, v, fsType, req); err != nil {
		return "", err
	}
	u.add("unmount "+req.Path, func(context.Context) error { return s.unmount(req.Path) })
	s.point.Hit("stage.mounted")
	if err := s.grow(v, req.Path); err != nil {
		return "", err
	}
	s.point.Hit("stage.grown")
	return fsType, nil
}

// Unstage takes back what Stage has done. A volume that is not staged is no error; one
// that is published still is ErrState.
func (s *Service) Unstage(ctx context.Context, id, path string) error {
	if id == "" || path == "" {
		return fmt.Errorf("unstage: volume and staging path are needed: %w", store.ErrInvalid)
	}
	return s.do(ctx, id, "unstage", func(ctx context.Context, v *volume) error { return s.unstage(ctx, v, path) })
}

func (s *Service) unstage(ctx context.Context, v *volume, path string) error {
	r := v.record()
	if r == nil || r.Mapped {
		// A record that is lost must not leave the mount to hold the device.
		return s.unmount(path)
	}
	at, err := s.publishedAt(r)
	if err != nil {
		return err
	}
	if at != "" {
		return fmt.Errorf("it is still published at %s: %w", at, ErrState)
	}
	if r.Staging != path {
		if err := s.unmount(path); err != nil {
			return err
		}
	}
	if err := s.update(v, func(r *record) { r.Phase, r.Targets = PhaseDetaching, nil }); err != nil {
		return err
	}
	s.point.Hit("stage.unstage.recorded")
	if err := s.dismantle(ctx, v); err != nil {
		return err
	}
	if err := s.drop(v); err != nil {
		return err
	}
	s.point.Hit("stage.unstage.dropped")
	return nil
}

// dismantle undoes everything the record speaks of, but the record itself. It goes on
// from wherever an earlier one was interrupted.
func (s *Service) dismantle(ctx context.Context, v *volume) error {
	r := v.record()
	if r.Staging != "" {
		v.at("being unmounted")
		if err := s.unmount(r.Staging); err != nil {
			return err
		}
		s.point.Hit("stage.dismantle.unmounted")
	}
	if r.Attached && r.Fenced == "" {
		v.at("being flushed")
		if err := s.quiesce(ctx, r); err != nil {
			return err
		}
	}
	v.at("being disconnected")
	if err := s.detach(ctx, v); err != nil {
		return err
	}
	s.point.Hit("stage.dismantle.disconnected")
	if r.MadeDir {
		if err := removeDir(r.Staging); err != nil {
			return err
		}
	}
	return nil
}
