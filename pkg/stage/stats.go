package stage

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/store"
)

// Stats is how full a volume is.
type Stats struct {
	Block bool
	// Bytes. For raw block, Used is what the store holds of it; Available is 0.
	Total, Used, Available int64
	// Inodes of a file system.
	Inodes, InodesUsed, InodesFree int64
}

// Stats looks at a volume at a path where it is staged or published; another path, or
// volume, is store.ErrNotFound. It does not wait for operations, and one that hangs on a
// dead device does not make others pile up: store.ErrUnavailable.
func (s *Service) Stats(ctx context.Context, id, path string) (Stats, error) {
	st, err := s.stats(ctx, id, path)
	if err != nil {
		return Stats{}, fmt.Errorf("look at volume %s: %w", id, err)
	}
	return st, nil
}

func (s *Service) stats(ctx context.Context, id, path string) (Stats, error) {
	if id == "" || path == "" {
		return Stats{}, fmt.Errorf("volume and path are needed: %w", store.ErrInvalid)
	}
	v := s.hold(id)
	defer s.release(v)
	r := v.record()
	if r == nil || !r.has(path) {
		return Stats{}, fmt.Errorf("it is not at %s on this node: %w", path, store.ErrNotFound)
	}
	if r.FS == "" {
		return s.blockStats(ctx, r)
	}
	if on, err := s.mountsAt(path); err != nil || len(on) == 0 {
		return Stats{}, fmt.Errorf("nothing is mounted at %s (%v): %w", path, err, store.ErrNotFound)
	}
	return s.fsStats(ctx, v, path)
}

func (s *Service) blockStats(ctx context.Context, r *record) (Stats, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	conn, err := s.cfg.Finder.Find(ctx, r.Ticket.Pool, r.Ticket.Store)
	if err != nil {
		return Stats{}, err
	}
	u, err := conn.API.Usage(ctx, r.Ticket.Image)
	if err != nil {
		return Stats{}, err
	}
	return Stats{Block: true, Total: r.Size, Used: u.Own + u.Shared}, nil
}

// fsStats asks the file system, which waits for ever when its device is dead.
func (s *Service) fsStats(ctx context.Context, v *volume, path string) (Stats, error) {
	type answer struct {
		st  Stats
		err error
	}
	if !v.conn.looking.CompareAndSwap(false, true) {
		return Stats{}, fmt.Errorf("%w: %w", errGoesOn, store.ErrUnavailable)
	}
	done := make(chan answer, 1)
	if !s.start(func() {
		defer v.conn.looking.Store(false)
		var f unix.Statfs_t
		if err := unix.Statfs(path, &f); err != nil {
			done <- answer{err: fmt.Errorf("statfs %s: %w", path, err)}
			return
		}
		done <- answer{st: fromStatfs(f)}
	}) {
		v.conn.looking.Store(false)
		return Stats{}, store.ErrClosed
	}
	patience := time.NewTimer(s.cfg.CallTimeout)
	defer patience.Stop()
	select {
	case a := <-done:
		return a.st, a.err
	case <-ctx.Done():
		return Stats{}, fmt.Errorf("the file system does not answer: %w", ctx.Err())
	case <-patience.C:
		return Stats{}, fmt.Errorf("the file system does not answer within %v: %w", s.cfg.CallTimeout, store.ErrUnavailable)
	}
}

func fromStatfs(f unix.Statfs_t) Stats {
	unit := int64(f.Bsize)
	return Stats{
		Total:      int64(f.Blocks) * unit,
		Used:       int64(f.Blocks-f.Bfree) * unit,
		Available:  int64(f.Bavail) * unit,
		Inodes:     int64(f.Files),
		InodesUsed: int64(f.Files - f.Ffree),
		InodesFree: int64(f.Ffree),
	}
}
