package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
)

// find connects to the store of a ticket and reads what it knows of the image.
func (s *Service) find(ctx context.Context, t Ticket) (Connection, store.Info, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.cfg.Finder.Find(ctx, t.Pool, t.Store)
	if errors.Is(err, store.ErrNotFound) {
		// The pool does not know the store; that says nothing about the image.
		err = fmt.Errorf("%v: %w", err, store.ErrUnavailable)
	}
	if err != nil {
		return Connection{}, store.Info{}, fmt.Errorf("find store %s of pool %s: %w", t.Store, t.Pool, err)
	}
	info, err := conn.API.Stat(ctx, t.Image)
	if errors.Is(err, store.ErrNotFound) {
		err = confirm(ctx, conn, t, err)
	}
	if err != nil {
		return Connection{}, store.Info{}, fmt.Errorf("ask store %s for image %s: %w", t.Store, t.Image, err)
	}
	return conn, info, nil
}

// confirm returns why, which says that something is gone, if the store that said so is
// the ticket's. Another store may have started at its address, and knows nothing.
func confirm(ctx context.Context, conn Connection, t Ticket, why error) error {
	st, err := conn.API.Status(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%v, and the store does not say who it is: %w", why, err)
	case st.UUID != t.Store:
		return fmt.Errorf("store %s answers in its place: %w", st.UUID, store.ErrUnavailable)
	}
	return why
}

// leaps are by how much a generation is raised when the store has seen a newer one: the
// clock was set back, and the record that would tell was removed with the volume.
func leaps() []time.Duration {
	const day = 24 * time.Hour
	return []time.Duration{1, day, 30 * day, 365 * day}
}

// dial makes a connection of a new generation for the volume's device. The generation
// is durable before the store hears of it, so that it is never used twice, whatever
// the clock does. A withdrawn publication is ErrFenced.
func (s *Service) dial(ctx context.Context, v *volume, conn Connection) (*link, error) {
	var why error
	for _, leap := range leaps() {
		err := s.update(v, func(r *record) {
			r.Generation = max(uint64(time.Now().UnixNano()), r.Generation+uint64(leap))
		})
		if err != nil {
			return nil, err
		}
		l, err := s.dialTargets(ctx, v.record(), conn)
		var refusal *nbd.Refusal
		if !errors.As(err, &refusal) {
			return l, err
		}
		// It refuses because the publication is gone, or for now only.
		if _, without := s.publication(ctx, conn, v.record().Ticket); without != nil {
			return nil, fmt.Errorf("%w: %w", without, err)
		}
		why = err
	}
	return nil, fmt.Errorf("%w: %w", why, store.ErrUnavailable)
}

// dialTargets tries the store's addresses in turn. A refusal ends it, for behind all of
// them is the same store.
func (s *Service) dialTargets(ctx context.Context, r *record, conn Connection) (*link, error) {
	t := r.Ticket
	name := export.Name(store.Publication{ID: t.Image, Target: t.Image, Epoch: t.Epoch, Token: t.Token, Access: t.Access}, r.Generation)
	var last error
	for _, target := range conn.Targets {
		l, err := s.dialOne(ctx, target, name)
		var refusal *nbd.Refusal
		if err == nil || errors.As(err, &refusal) {
			return l, err
		}
		last = errors.Join(last, err)
	}
	if last == nil {
		last = errors.New("it serves NBD nowhere")
	}
	return nil, fmt.Errorf("connect to store %s: %w: %w", t.Store, last, store.ErrUnavailable)
}

func (s *Service) dialOne(ctx context.Context, target nbd.Target, name string) (*link, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	sock, n, err := s.cfg.Dial(ctx, target, name)
	if err != nil {
		return nil, err
	}
	watched, err := duplicate(sock)
	if err != nil {
		_ = sock.Close()
		return nil, err
	}
	return &link{sock: sock, watched: watched, n: n, keyed: target.Network == "tcp"}, nil
}

// link is a connection on its way to the kernel.
type link struct {
	sock    *os.File // nil once it was given away
	watched *os.File // a second descriptor of it; nil once it was given away
	n       nbd.Negotiated
	keyed   bool // it may be encrypted, so that its key has a limit
}

func (l *link) give() *os.File {
	sock := l.sock
	l.sock = nil
	return sock
}

// close closes what was not given away.
func (l *link) close() {
	for _, f := range []*os.File{l.sock, l.watched} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// fits checks what the server offers against what the store says.
func (l *link) fits(r *record, info store.Info) error {
	switch {
	case l.n.Size != info.Size:
		return fmt.Errorf("image %s has %d bytes, but %d are served: %w", r.Ticket.Image, info.Size, l.n.Size, store.ErrUnavailable)
	case l.n.ReadOnly() && r.Ticket.Access != store.AccessRead:
		return fmt.Errorf("image %s is served read-only (%s %s): %w", r.Ticket.Image, info.State, info.Reason, store.ErrReadOnly)
	}
	return nil
}

// publication asks for the ticket's publication; ErrFenced if it was withdrawn. Stores do
// not tell tokens to nodes on other hosts; the epoch says enough, as no two publications
// of an image have the same.
func (s *Service) publication(ctx context.Context, conn Connection, t Ticket) (store.Publication, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	pubs, err := conn.API.Publications(ctx, t.Image)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Publication{}, fmt.Errorf("ask store %s for the publication of image %s: %w", t.Store, t.Image, err)
	}
	for _, p := range pubs {
		if p.Epoch == t.Epoch && (p.Token == "" || p.Token == t.Token) {
			return p, nil
		}
	}
	return store.Publication{}, confirm(ctx, conn, t, fmt.Errorf("epoch %d of image %s was withdrawn: %w", t.Epoch, t.Image, store.ErrFenced))
}

// attach makes the volume's device and its link. Its undo is added to u.
func (s *Service) attach(ctx context.Context, v *volume, conn Connection, info store.Info, u *undo) error {
	leave, err := v.take(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.connect(ctx, v, conn, info, u)
}

// connect is attach for who holds the volume's link.
func (s *Service) connect(ctx context.Context, v *volume, conn Connection, info store.Info, u *undo) error {
	v.at("connecting to its store")
	l, err := s.dial(ctx, v, conn)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.fits(v.record(), info); err != nil {
		return err
	}
	v.at("being made a kernel device")
	d, err := s.cfg.Kernel.Connect(ctx, attach.Request{
		Socket: l.give(), Size: info.Size, BlockSize: info.BlockSize, Flags: l.n.Flags, Backend: backendOf(v.record().Ticket),
	})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	u.add("disconnect "+d.Path, func(ctx context.Context) error { return s.detach(ctx, v) })
	s.point.Hit("stage.attach.connected")
	err = s.update(v, func(r *record) {
		r.Attached, r.Index, r.Device, r.Size, r.BlockSize = true, d.Index, d.Path, info.Size, info.BlockSize
		r.KeyBase, r.Keyed = 0, l.keyed
	})
	if err != nil {
		return err // detach finds the device by its backend identifier
	}
	s.up(v, l)
	s.point.Hit("stage.attach.recorded")
	return nil
}

// detach ends the volume's device, whether or not the record knows its index.
func (s *Service) detach(ctx context.Context, v *volume) error {
	leave, err := v.take(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.disconnect(ctx, v); err != nil {
		return err
	}
	if r := v.record(); r == nil || !r.Attached {
		return nil
	}
	// Before the link is let go, or the watcher would connect a device that was ended.
	return s.update(v, func(r *record) { r.Attached = false })
}

// disconnect is detach for who holds the volume's link.
func (s *Service) disconnect(ctx context.Context, v *volume) error {
	r := v.record()
	if r == nil {
		return nil
	}
	v.conn.leave()
	s.down(v)
	if r.Attached {
		if err := s.cfg.Kernel.Disconnect(ctx, r.device()); err != nil {
			return fmt.Errorf("disconnect %s: %w", r.Device, err)
		}
		return nil
	}
	return s.endUnrecorded(ctx, r)
}

// endUnrecorded ends devices of a volume whose record knows of none.
func (s *Service) endUnrecorded(ctx context.Context, r *record) error {
	devices, err := s.cfg.Kernel.Find(ctx, backendOf(r.Ticket))
	if errors.Is(err, attach.ErrUnsupported) {
		return nil // then there is none
	}
	if err != nil {
		return fmt.Errorf("look for devices of %s: %w", backendOf(r.Ticket), err)
	}
	for _, d := range devices {
		if err := s.cfg.Kernel.Disconnect(ctx, d); err != nil {
			return fmt.Errorf("disconnect %s: %w", d.Path, err)
		}
	}
	return nil
}
