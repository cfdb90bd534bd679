package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// MapRequest asks for an image or snapshot as a device, without a mount.
type MapRequest struct {
	Pool string
	// Ref is "image" or "image@snapshot".
	Ref string
	// ReadOnly is implied by a snapshot.
	ReadOnly bool
}

// volumeOf is the volume id under which something is mapped.
func volumeOf(pool string, id store.ID) string { return "map:" + pool + ":" + string(id) }

// Map publishes an image or snapshot to this node and makes it a device. Mapping it again
// returns the same. Unmap must follow at some time, even when Map fails with ctx's error.
func (s *Service) Map(ctx context.Context, req MapRequest) (Volume, error) {
	if req.Pool == "" || req.Ref == "" {
		return Volume{}, fmt.Errorf("map: pool and image are needed: %w", store.ErrInvalid)
	}
	find, cancel := s.bound(ctx)
	defer cancel()
	uuid, info, err := s.cfg.Finder.Lookup(find, req.Pool, req.Ref)
	if err != nil {
		return Volume{}, fmt.Errorf("map %s of pool %s: %w", req.Ref, req.Pool, err)
	}
	id := volumeOf(req.Pool, info.ID)
	access := store.AccessWrite
	if req.ReadOnly || info.Kind == store.KindSnapshot {
		access = store.AccessRead
	}
	var out Volume
	err = s.do(ctx, id, "map", func(ctx context.Context, v *volume) error {
		r := v.record()
		if r != nil && r.Phase == PhaseReady && r.Attached && r.Fenced == "" {
			if r.Ticket.Access != access {
				return fmt.Errorf("it is mapped as %s for another kind of access (%s); unmap it first: %w", r.Device, r.Ticket.Access, store.ErrConflict)
			}
			out = describe(v)
			return nil
		}
		t := Ticket{Pool: req.Pool, Store: uuid, Access: access}
		if err := s.mapIt(ctx, v, info, t, req.Ref); err != nil {
			return err
		}
		out = describe(v)
		return nil
	})
	if err != nil {
		return Volume{}, err // what goes on may still come to write out
	}
	return out, nil
}

// mapIt publishes and attaches. What an earlier call has left is taken back first.
func (s *Service) mapIt(ctx context.Context, v *volume, info store.Info, t Ticket, ref string) error {
	if r := v.record(); r != nil {
		if err := s.unmap(ctx, v); err != nil {
			return err
		}
	}
	if err := s.unpublished(ctx, v, t, info.ID); err != nil {
		return err
	}
	u := new(undo)
	err := func() error {
		r := &record{Volume: v.id, Phase: PhaseAttaching, Ticket: t, Mapped: true, Source: info.ID, Ref: ref}
		if err := s.put(v, r); err != nil {
			return err
		}
		v.conn.reset()
		if err := s.alone(v, info.ID); err != nil {
			return errors.Join(err, s.drop(v))
		}
		// From here on unmap finds the way back, wherever a crash happens.
		u.add("unmap", func(ctx context.Context) error { return s.unmap(ctx, v) })
		s.point.Hit("stage.map.recorded")
		conn, info, err := s.publishHere(ctx, v, t, info.ID)
		if err != nil {
			return err
		}
		if err := s.attach(ctx, v, conn, info, new(undo)); err != nil {
			return err
		}
		if err := s.markRaw(ctx, conn, info, v.record().Ticket); err != nil {
			return err
		}
		if err := s.update(v, func(r *record) { r.Phase = PhaseReady }); err != nil {
			return err
		}
		s.point.Hit("stage.map.done")
		return nil
	}()
	if err != nil {
		return u.fail(ctx, err)
	}
	return nil
}

// unpublished fails if this node has a publication already. The store would give the same
// one again, and unmap would withdraw it from the volume that it is for.
func (s *Service) unpublished(ctx context.Context, v *volume, t Ticket, id store.ID) error {
	if err := s.alone(v, id); err != nil {
		return err
	}
	t.Image = id
	conn, _, err := s.find(ctx, t)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	pubs, err := conn.API.Publications(ctx, id)
	if err != nil {
		return fmt.Errorf("ask for publications of image %s: %w", id, err)
	}
	if slices.ContainsFunc(pubs, func(p store.Publication) bool { return p.Node == s.cfg.Node }) {
		return fmt.Errorf("image %s is published to this node already; if no volume needs that, end it with strata unpublish: %w", id, store.ErrInUse)
	}
	return nil
}

// publishHere gets this node a publication, and its record the ticket.
func (s *Service) publishHere(ctx context.Context, v *volume, t Ticket, id store.ID) (Connection, store.Info, error) {
	t.Image = id
	conn, info, err := s.find(ctx, t)
	if err != nil {
		return Connection{}, store.Info{}, err
	}
	call, cancel := s.bound(ctx)
	defer cancel()
	p, err := conn.API.Publish(call, id, s.cfg.Node, t.Access)
	if err != nil {
		return Connection{}, store.Info{}, fmt.Errorf("publish to this node: %w", err)
	}
	s.point.Hit("stage.map.published")
	t.Image, t.Epoch, t.Token = p.Target, p.Epoch, p.Token
	if t.Image == "" {
		t.Image = id
	}
	if err := s.update(v, func(r *record) { r.Ticket = t }); err != nil {
		return Connection{}, store.Info{}, err
	}
	s.point.Hit("stage.map.ticketed")
	return conn, info, nil
}

// Unmap takes a mapped image away: by the volume's id, the path of its device, or
// "pool/image". One that is not mapped is store.ErrNotFound.
func (s *Service) Unmap(ctx context.Context, what string) error {
	for _, v := range s.all() {
		r := v.record()
		if r == nil || !r.Mapped || what != v.id && what != r.Device && what != r.Ticket.Pool+"/"+r.Ref {
			continue
		}
		return s.do(ctx, v.id, "unmap", func(ctx context.Context, v *volume) error {
			if v.record() == nil {
				return nil
			}
			return s.unmap(ctx, v)
		})
	}
	return fmt.Errorf("unmap %s: nothing of that name is mapped: %w", what, store.ErrNotFound)
}

// unmap undoes what mapIt has done, from wherever it was interrupted.
func (s *Service) unmap(ctx context.Context, v *volume) error {
	if err := s.update(v, func(r *record) { r.Phase = PhaseDetaching }); err != nil {
		return err
	}
	s.point.Hit("stage.unmap.recorded")
	r := v.record()
	if err := s.dismantle(ctx, v); err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.cfg.Finder.Find(ctx, r.Ticket.Pool, r.Ticket.Store)
	if errors.Is(err, store.ErrFenced) {
		return s.drop(v) // the store was given up, and the publication with it
	}
	if err != nil {
		return fmt.Errorf("find store %s to withdraw the publication: %w", r.Ticket.Store, err)
	}
	if err := s.withdraw(ctx, conn, r); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("withdraw the publication: %w", err)
	}
	s.point.Hit("stage.unmap.unpublished")
	return s.drop(v)
}

// withdraw gives the publication of a mapping back. One that this node was given after it
// was withdrawn by somebody else is not the mapping's.
func (s *Service) withdraw(ctx context.Context, conn Connection, r *record) error {
	if r.Ticket.Epoch != 0 { // else a crash came between, and what this node has is of it
		pubs, err := conn.API.Publications(ctx, r.Source)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pubs, func(p store.Publication) bool { return p.Node == s.cfg.Node && p.Epoch == r.Ticket.Epoch }) {
			return nil
		}
	}
	return conn.API.Unpublish(ctx, r.Source, s.cfg.Node)
}

// List tells of all volumes on this node, in the order of their ids.
func (s *Service) List() []Volume {
	var list []Volume
	for _, v := range s.all() {
		if v.record() != nil {
			list = append(list, describe(v))
		}
	}
	return list
}

// Health tells what is known of a volume's link; store.ErrNotFound if it is not here.
func (s *Service) Health(id string) (Health, error) {
	v := s.hold(id)
	defer s.release(v)
	r := v.record()
	if r == nil {
		return Health{}, fmt.Errorf("volume %s is not on this node: %w", id, store.ErrNotFound)
	}
	return v.conn.health(r), nil
}

func describe(v *volume) Volume {
	r := v.record()
	if r == nil {
		return Volume{Volume: v.id}
	}
	out := Volume{
		Volume: v.id, Pool: r.Ticket.Pool, Store: r.Ticket.Store, Image: r.Ticket.Image, Epoch: r.Ticket.Epoch,
		Access: r.Ticket.Access, Phase: r.Phase, Size: r.Size, Path: r.Staging, Capability: r.Capability,
		Targets: append([]Target(nil), r.Targets...), Mapped: r.Mapped, Ref: r.Ref, Health: v.conn.health(r),
	}
	if r.Attached {
		out.Device = r.Device
	}
	return out
}
