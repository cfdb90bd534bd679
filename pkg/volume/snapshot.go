package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// snapRecord is the note of a snapshot: its image, and itself once it was taken.
type snapRecord struct {
	image    store.ID
	snapshot store.ID
}

const snapPrefix = "snap/"

func snapNote(name string) string { return snapPrefix + name }

func (r snapRecord) encode() string { return string(r.image) + " " + string(r.snapshot) }

func parseSnap(text string) snapRecord {
	image, snapshot, _ := strings.Cut(text, " ")
	return snapRecord{store.ID(image), store.ID(snapshot)}
}

// CreateSnapshot freezes a volume as it is now. Repeated with the same name and volume
// it returns the same snapshot. ErrNotFound: no such volume; ErrConflict: the name is
// taken by a snapshot of another one; ErrNoSpace; ErrBusy: the volume is still being
// copied.
func (s *Service) CreateSnapshot(ctx context.Context, name, volume string) (Snapshot, error) {
	if name == "" {
		return Snapshot{}, fmt.Errorf("a snapshot needs a name: %w", store.ErrInvalid)
	}
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return Snapshot{}, err
	}
	inner := objectName(store.KindSnapshot, name)
	return run(ctx, s, "snapshot "+inner, func(ctx context.Context) (Snapshot, error) {
		f, err := s.createSnapshot(ctx, inner, want)
		if err != nil {
			return Snapshot{}, fmt.Errorf("snapshot %s: %w", name, err)
		}
		return f.snapshot(), nil
	})
}

func (s *Service) createSnapshot(ctx context.Context, name string, want id) (found, error) {
	taken, err := s.snapshotNamed(ctx, name)
	if err != nil {
		return found{}, err
	}
	if f, done, err := taken.settled(ctx, want); done || err != nil {
		return f, err
	}
	f, err := s.find(ctx, want)
	if err != nil {
		return found{}, err
	}
	if taken == nil { // its store may be one that was too slow to be asked above
		if taken, err = namedAt(ctx, f.pool, f.m, name); err != nil {
			return found{}, err
		}
		if f, done, err := taken.settled(ctx, want); done || err != nil {
			return f, err
		}
	}
	if err := s.whole(ctx, f); err != nil {
		return found{}, err
	}
	return s.take(ctx, name, f, taken)
}

// take takes the snapshot. The note comes first: without it a snapshot of that name is
// somebody else's.
func (s *Service) take(ctx context.Context, name string, f found, taken *named) (found, error) {
	intent := snapRecord{image: f.info.ID}.encode()
	ours := taken != nil && taken.m.UUID == f.m.UUID
	old := ""
	if ours {
		old = taken.text
	}
	if err := swap(ctx, f.m, snapNote(name), old, intent); err != nil {
		return found{}, err
	}
	failpoint.Hit("volume.snapshot.noted")
	info, err := f.m.Remote.Snapshot(ctx, f.info.ID, name)
	if errors.Is(err, store.ErrConflict) && ours { // an earlier attempt took it
		info, err = f.m.Remote.Lookup(ctx, f.info.Name+"@"+name)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", f.m, err)
		if certain(err) && !ours {
			if undo := swap(ctx, f.m, snapNote(name), intent, ""); undo != nil {
				return found{}, fmt.Errorf("%v; clean up: %v: %w", err, undo, store.ErrUnavailable)
			}
		}
		return found{}, err
	}
	failpoint.Hit("volume.snapshot.taken")
	if err := swap(ctx, f.m, snapNote(name), intent, snapRecord{f.info.ID, info.ID}.encode()); err != nil {
		return found{}, err
	}
	failpoint.Hit("volume.snapshot.known")
	return found{f.pool, f.m, info}, nil
}

// certain tells whether an error says that nothing was done.
func certain(err error) bool {
	for _, is := range []error{store.ErrConflict, store.ErrNoSpace, store.ErrNotFound, store.ErrInvalid, store.ErrReadOnly} {
		if errors.Is(err, is) && !errors.Is(err, store.ErrUnavailable) {
			return true
		}
	}
	return false
}

// named is the note of a snapshot's name and where it was found.
type named struct {
	pool   string
	m      pool.Member
	record snapRecord
	text   string
}

// settled finds the snapshot that the note speaks of, if it has been taken. ErrConflict if
// it is of another image.
func (n *named) settled(ctx context.Context, want id) (f found, done bool, err error) {
	if n == nil {
		return found{}, false, nil
	}
	if n.record.image != want.object {
		return found{}, false, fmt.Errorf("it exists of another volume, image %s: %w", n.record.image, store.ErrConflict)
	}
	if n.record.snapshot == "" {
		return found{}, false, nil
	}
	info, err := n.m.Remote.Stat(ctx, n.record.snapshot)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return found{}, false, nil
	case err != nil:
		return found{}, false, fmt.Errorf("%s: %w", n.m, err)
	}
	return found{n.pool, n.m, info}, true, nil
}

// namedAt reads the note of one store; nil if it has none.
func namedAt(ctx context.Context, poolName string, m pool.Member, name string) (*named, error) {
	text, err := note(ctx, m, snapNote(name))
	if err != nil || text == "" {
		return nil, err
	}
	return &named{poolName, m, parseSnap(text), text}, nil
}

// snapshotNamed looks for the name in all pools; nil if no store that answers has it.
// The source's store always answers in the requests that matter, since they need it.
func (s *Service) snapshotNamed(ctx context.Context, name string) (*named, error) {
	var best *named
	for _, poolName := range s.pools.Names() {
		v, err := s.pools.View(ctx, poolName)
		if err != nil {
			return nil, err
		}
		var mu sync.Mutex
		each(v.Members, func(_ int, m pool.Member) {
			n, err := namedAt(ctx, poolName, m, name)
			if err != nil || n == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if best == nil || best.record.snapshot == "" && n.record.snapshot != "" {
				best = n
			}
		})
	}
	return best, nil
}

// DeleteSnapshot removes a snapshot. One that does not exist is no error, as long as
// every store that may have it has answered. ErrInUse while it is published or read.
func (s *Service) DeleteSnapshot(ctx context.Context, snapshot string) error {
	want, err := parseID(snapshotPrefix, snapshot)
	if err != nil {
		return nil // not ours, so it does not exist
	}
	_, err = run(ctx, s, "snapshot "+want.key(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.deleteSnapshot(ctx, want)
	})
	return err
}

func (s *Service) deleteSnapshot(ctx context.Context, want id) error {
	f, err := s.find(ctx, want)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return s.sweepSnapshot(ctx, want)
	case err != nil:
		return err
	}
	if err := s.unpublished(ctx, f); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", f.info.Ref(), err)
	}
	if err := f.m.Remote.Remove(ctx, f.info.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete snapshot %s: %s: %w", f.info.Ref(), f.m, err)
	}
	failpoint.Hit("volume.unsnapshot.removed")
	text, err := note(ctx, f.m, snapNote(f.info.Name))
	if err != nil || text == "" || parseSnap(text).snapshot != want.object {
		return err
	}
	if err := swap(ctx, f.m, snapNote(f.info.Name), text, ""); err != nil {
		return err
	}
	failpoint.Hit("volume.unsnapshot.cleared")
	return nil
}

// sweepSnapshot removes the note of a snapshot that is gone: a delete was interrupted.
func (s *Service) sweepSnapshot(ctx context.Context, want id) error {
	v, err := s.view(ctx, want.pool, s.pools.View)
	if err != nil {
		return err
	}
	if v = s.complete(ctx, v); v.Err() != nil {
		return fmt.Errorf("see whether a note is left to remove: %w", v.Err())
	}
	for _, m := range v.Members {
		left := make(map[string]string)
		err := m.Remote.Notes(ctx, snapPrefix, func(key, text string) error {
			if parseSnap(text).snapshot == want.object {
				left[key] = text
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
		for key, text := range left {
			if err := swap(ctx, m, key, text, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// GetSnapshot describes a snapshot.
func (s *Service) GetSnapshot(ctx context.Context, snapshot string) (Snapshot, error) {
	want, err := parseID(snapshotPrefix, snapshot)
	if err != nil {
		return Snapshot{}, err
	}
	f, err := s.find(ctx, want)
	if err != nil {
		return Snapshot{}, err
	}
	return f.snapshot(), nil
}
