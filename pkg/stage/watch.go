package stage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/store"
)

// How a link's death is noticed:
//
//   - A link that this process made is watched by a descriptor of its socket: epoll
//     tells of the hang-up at once. TCP sockets have keepalive and a user timeout, so
//     that a peer that dies without a word becomes a hang-up too.
//   - Of a link that an earlier process made no descriptor is left. It is not replaced,
//     for it may work: the device is read from, at the start and then every few ticks. A
//     read that is not answered is a reason to replace the link.
//   - The kernel tells of links that it gives up (in the host's network namespace only).
//     It is a hint, and answered by a read.
//
// The reader of a device whose link is dead hangs in the kernel until the link is back.
// There is at most one for each device.

// pauses between attempts to restore a link grow from firstPause to lastPause.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// probeTicks is after how many ticks a device without a known socket is read again.
const probeTicks = 2

// watch looks at all links, every tick.
func (s *Service) watch() {
	t := time.NewTicker(s.cfg.Tick)
	defer t.Stop()
	for {
		for _, v := range s.all() {
			s.look(v)
		}
		select {
		case <-t.C:
		case <-s.quit.Done():
			return
		}
	}
}

// listen takes in what sockets tell.
func (s *Service) listen() {
	stop := context.AfterFunc(s.quit, s.hangs.stop)
	defer stop()
	for s.quit.Err() == nil {
		names, err := s.hangs.wait()
		if err != nil {
			return // the ticks of watch do the same, later
		}
		for _, name := range names {
			v := s.hold(name)
			s.look(v)
			s.release(v)
		}
	}
}

// hear takes in what the kernel tells.
func (s *Service) hear() {
	s.cfg.Kernel.Watch(s.quit, func(index int) {
		for _, v := range s.all() {
			if r := v.record(); r != nil && r.Attached && r.Index == index && r.Fenced == "" {
				v.conn.hear()
				s.probeLink(v)
			}
		}
	})
}

// linked tells whether the volume has a link that should be alive.
func (r *record) linked() bool {
	return r != nil && r.Fenced == "" && r.Phase != PhaseDetaching && (r.Attached || r.Mapped && r.Phase == PhaseReady)
}

// look examines one link. It does not block.
func (s *Service) look(v *volume) {
	r := v.record()
	switch {
	case r != nil && r.Fenced != "":
		s.finish(v)
		return
	case !r.linked():
		return
	case !r.Attached:
		s.restore(v)
		return
	}
	ended, known := v.conn.hungUp()
	if ended {
		s.restore(v)
		return
	}
	if !known && v.conn.due(probeTicks*s.cfg.Tick) {
		s.probeLink(v)
	}
	if s.cfg.KeyLimit > 0 && r.Keyed {
		s.renewIfOld(v, r)
	}
}

// probeLink reads from the device, and restores the link if that is not answered.
func (s *Service) probeLink(v *volume) {
	r := v.record()
	if !r.linked() || !r.Attached || !v.conn.probing.CompareAndSwap(false, true) {
		return
	}
	if !s.start(func() {
		defer v.conn.probing.Store(false)
		ctx, cancel := context.WithTimeout(s.quit, s.cfg.Patience)
		defer cancel()
		err := s.cfg.Kernel.Probe(ctx, r.device())
		if err != nil && s.quit.Err() == nil {
			s.restore(v)
		}
	}) {
		v.conn.probing.Store(false)
	}
}

// restore begins to restore a link, unless somebody does already.
func (s *Service) restore(v *volume) {
	if !v.conn.begin() {
		return
	}
	if !s.start(func() {
		defer v.conn.end()
		s.restoring(v)
	}) {
		v.conn.end()
	}
}

// restoring tries until the link is up, or there is nothing to restore any more.
func (s *Service) restoring(v *volume) {
	if v.conn.lose() {
		s.tell(v, LinkLost, 0, nil)
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := s.attempt(v)
		if err == nil {
			return
		}
		if s.quit.Err() != nil {
			return
		}
		if v.conn.fail(err) {
			s.tell(v, LinkRetry, 0, err)
		}
		again := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-again.C:
		case <-s.quit.Done():
			again.Stop()
			return
		}
	}
}

// attempt is one attempt to restore a link. It returns nil when no other is needed.
// Attempts for one store are limited in number, so that a store that comes back is not
// overrun; stores do not wait for each other.
func (s *Service) attempt(v *volume) error {
	r := v.record()
	if !r.linked() {
		return nil
	}
	gate := s.gate(r.Ticket.Store)
	select {
	case gate <- struct{}{}:
		defer func() { <-gate }()
	case <-s.quit.Done():
		return s.quit.Err()
	}
	conn, info, err := s.find(s.quit, r.Ticket)
	if errors.Is(err, store.ErrNotFound) {
		return s.fence(v, fmt.Errorf("image %s is gone: %w", r.Ticket.Image, err))
	}
	if err != nil {
		return err
	}
	leave, err := v.take(s.quit)
	if err != nil {
		return err
	}
	defer leave()
	if r = v.record(); !r.linked() {
		return nil
	}
	if !r.Attached {
		err = s.reattach(v, conn, info)
	} else {
		err = s.reconnect(v, r, conn)
	}
	switch {
	case errors.Is(err, store.ErrFenced), errors.Is(err, attach.ErrGone):
		return s.fenceHeld(v, err)
	case err != nil:
		return err
	}
	s.tell(v, LinkBack, v.conn.back(), nil)
	return nil
}

// gate bounds the attempts for one store.
func (s *Service) gate(uuid string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[uuid]
	if g == nil {
		g = make(chan struct{}, s.cfg.Parallel)
		s.gates[uuid] = g
	}
	return g
}

// reconnect gives the volume's device a new link. The caller holds the old one.
func (s *Service) reconnect(v *volume, r *record, conn Connection) error {
	if s.answers(v, r) {
		return nil
	}
	l, err := s.dial(s.quit, v, conn)
	if err != nil {
		return err
	}
	s.point.Hit("stage.reconnect.dialled")
	if err := s.cfg.Kernel.Reconnect(s.quit, r.device(), attach.Request{Socket: l.give()}); err != nil {
		l.close()
		return err
	}
	s.point.Hit("stage.reconnect.adopted")
	return s.adopted(v, r, l)
}

// slowness is by how much a device may exceed the patience while its store answers.
const slowness = 4

// answers tells whether a link that nobody has declared dead works after all: its store
// may be slow only, and to cut a link stalls what is under way.
func (s *Service) answers(v *volume, r *record) bool {
	if ended, _ := v.conn.hungUp(); ended || v.conn.believed() {
		return false
	}
	ctx, cancel := context.WithTimeout(s.quit, slowness*s.cfg.Patience)
	defer cancel()
	again := time.NewTicker(s.cfg.Patience / 10)
	defer again.Stop()
	for {
		err := s.cfg.Kernel.Probe(ctx, r.device())
		if err == nil {
			return true
		}
		if ended, _ := v.conn.hungUp(); ended || errors.Is(err, attach.ErrGone) {
			return false
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
}

// adopted notes a link that the kernel has taken for a device that was there before.
func (s *Service) adopted(v *volume, r *record, l *link) error {
	s.up(v, l)
	if !l.keyed && !r.Keyed {
		return nil
	}
	moved, err := s.cfg.Kernel.Moved(r.device())
	if err != nil {
		return err
	}
	return s.update(v, func(r *record) { r.Keyed, r.KeyBase = l.keyed, moved })
}

// reattach makes the device of a mapped volume anew, after the host was started anew.
func (s *Service) reattach(v *volume, conn Connection, info store.Info) error {
	return s.connect(s.quit, v, conn, info, new(undo))
}

// fence ends a volume for good: its publication, or what was published, is gone.
func (s *Service) fence(v *volume, why error) error {
	leave, err := v.take(s.quit)
	if err != nil {
		return err
	}
	defer leave()
	return s.fenceHeld(v, why)
}

// fenceHeld is fence for who holds the volume's link. The record comes first: a device
// that was ended without it would be taken for one that has lost its link.
func (s *Service) fenceHeld(v *volume, why error) error {
	if !v.record().linked() {
		return nil
	}
	if err := s.update(v, func(r *record) { r.Fenced = why.Error() }); err != nil {
		return err
	}
	s.point.Hit("stage.fence.recorded")
	s.tell(v, Fenced, 0, why)
	return s.endDevice(v)
}

// endDevice makes the I/O of a fenced volume's device end in errors. That a file system
// still has the device open is to be expected.
func (s *Service) endDevice(v *volume) error {
	err := s.disconnect(s.quit, v)
	if err != nil && !errors.Is(err, attach.ErrInUse) {
		return err
	}
	v.conn.setEnded(true)
	return nil
}

// finish ends the device of a fenced volume, if an earlier process, or attempt, has not.
func (s *Service) finish(v *volume) {
	v.conn.mu.Lock()
	ended := v.conn.ended
	v.conn.mu.Unlock()
	if ended || !v.conn.begin() {
		return
	}
	if !s.start(func() {
		defer v.conn.end()
		leave, err := v.take(s.quit)
		if err != nil {
			return
		}
		defer leave()
		if err := s.endDevice(v); err != nil && v.conn.fail(err) {
			s.tell(v, Fenced, 0, err)
		}
	}) {
		v.conn.end()
	}
}

// tell reports an event.
func (s *Service) tell(v *volume, kind EventKind, after time.Duration, err error) {
	e := Event{Kind: kind, Volume: v.id, After: after, Err: err}
	if r := v.record(); r != nil {
		e.Device = r.Device
	}
	s.cfg.Notify(e)
}
