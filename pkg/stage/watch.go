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
//     for it may work: the store is asked whether the connection is open, at the start
//     and then every few ticks. The kernel closes what it gives up, so the store knows.
//   - The kernel tells of links that it gives up (in the host's network namespace only).
//     It is a hint to ask at once.
//
// Nothing here reads from a device. A read over a dead link hangs in the kernel until
// the link is back, and with it the process even when it is killed: it could not be
// started anew, and nobody else would bring the link back.

// pauses between attempts to restore a link grow from firstPause to lastPause.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// askTicks is after how many ticks the store is asked again for a link without a known
// socket.
const askTicks = 2

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
				s.askLink(v)
			}
		}
	})
}

// linked tells whether the volume has a link that should be alive: to its very end, or
// what is written back when it is unmounted could not be.
func (r *record) linked() bool {
	return r != nil && r.Fenced == "" && (r.Attached || r.Mapped && r.Phase == PhaseReady)
}

// look examines one link. It does not block.
func (s *Service) look(v *volume) {
	r := v.record()
	switch {
	case r != nil && r.Fenced != "":
		s.finish(v)
		return
	case !r.linked() || v.conn.leaving():
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
	if !known && v.conn.due(askTicks*s.cfg.Tick) {
		s.askLink(v)
	}
	if s.cfg.KeyLimit > 0 && r.Keyed {
		s.renewIfOld(v, r)
	}
}

// askLink asks the store for a link, and restores it if the store has not got it.
func (s *Service) askLink(v *volume) {
	r := v.record()
	if _, known := v.conn.hungUp(); known || !r.linked() || !r.Attached || !v.conn.asking.CompareAndSwap(false, true) {
		return
	}
	if !s.start(func() {
		defer v.conn.asking.Store(false)
		leave, err := s.admitted(r.Ticket.Store)
		if err != nil {
			return
		}
		open, err := s.connected(s.quit, r.Ticket)
		leave()
		switch {
		case s.quit.Err() != nil:
		case err != nil:
			v.conn.fail(err) // nothing can be done about it now, and nothing is known
		case !open:
			s.restore(v)
		default:
			v.conn.fine()
		}
	}) {
		v.conn.asking.Store(false)
	}
}

// connected asks the store of a ticket whether it has an open connection of it.
func (s *Service) connected(ctx context.Context, t Ticket) (bool, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.cfg.Finder.Find(ctx, t.Pool, t.Store)
	if err != nil {
		return false, fmt.Errorf("find store %s of pool %s: %w", t.Store, t.Pool, err)
	}
	p, err := s.publication(ctx, conn, t)
	if errors.Is(err, store.ErrFenced) {
		return false, nil // for restore to find out
	}
	return p.Connected, err
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
	out, err := s.admitted(r.Ticket.Store)
	if err != nil {
		return err
	}
	defer out()
	conn, info, err := s.find(s.quit, r.Ticket)
	if errors.Is(err, store.ErrNotFound) {
		return s.fence(v, fmt.Errorf("image %s is gone: %w", r.Ticket.Image, err))
	}
	if errors.Is(err, store.ErrFenced) {
		return s.fence(v, err) // the store was given up: nobody will ever answer
	}
	if err != nil {
		return err
	}
	leave, err := v.take(s.quit)
	if err != nil {
		return err
	}
	defer leave()
	if r = v.record(); !r.linked() || v.conn.leaving() {
		return nil
	}
	if !r.Attached {
		err = s.reattach(v, conn, info)
	} else {
		err = s.reconnect(v, r, conn)
	}
	switch {
	case errors.Is(err, attach.ErrGone) && r.Phase == PhaseDetaching:
		return nil // an earlier process has ended it
	case errors.Is(err, store.ErrFenced), errors.Is(err, attach.ErrGone):
		return s.fenceHeld(v, err)
	case err != nil:
		return err
	}
	s.tell(v, LinkBack, v.conn.back(), nil)
	return nil
}

// admitted waits for a turn at a store; leave must be called after it.
func (s *Service) admitted(uuid string) (leave func(), err error) {
	s.mu.Lock()
	gate := s.gates[uuid]
	if gate == nil {
		gate = make(chan struct{}, s.cfg.Parallel)
		s.gates[uuid] = gate
	}
	s.mu.Unlock()
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, nil
	case <-s.quit.Done():
		return nil, s.quit.Err()
	}
}

// reconnect gives the volume's device a new link. The caller holds the old one.
func (s *Service) reconnect(v *volume, r *record, conn Connection) error {
	if s.works(v, r, conn) {
		return nil
	}
	l, err := s.dial(s.quit, v, conn)
	if err != nil {
		return err
	}
	defer l.close()
	s.point.Hit("stage.reconnect.dialled")
	if err := s.cfg.Kernel.Reconnect(s.quit, r.device(), attach.Request{Socket: l.give()}); err != nil {
		return err
	}
	s.point.Hit("stage.reconnect.adopted")
	return s.adopted(v, r, l)
}

// works tells whether a link that nobody has declared dead is open after all. To cut a
// link stalls what is under way.
func (s *Service) works(v *volume, r *record, conn Connection) bool {
	if ended, known := v.conn.hungUp(); known {
		return !ended
	}
	p, err := s.publication(s.quit, conn, r.Ticket)
	return err == nil && p.Connected
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
	// An attempt that ended before it was recorded may have left a device.
	if err := s.endUnrecorded(s.quit, v.record()); err != nil {
		return err
	}
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
		e.Device, e.Epoch = r.Device, r.Ticket.Epoch
		for _, t := range r.Targets {
			e.Paths = append(e.Paths, t.Path)
		}
	}
	s.cfg.Notify(e)
}
