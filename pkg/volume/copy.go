package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// copyRecord is the note of a copy, on the store it goes to. It is written before there
// is an image and removed when the image is complete, or after it was removed.
type copyRecord struct {
	// Pool, Store and Source say what is copied: a snapshot or an image.
	Pool   string   `json:"pool"`
	Store  string   `json:"store"`
	Source store.ID `json:"source"`
	// Frozen is the snapshot that is read; of an image it is taken for the copy and
	// removed at its end.
	Frozen store.ID `json:"frozen,omitempty"`
	// Image is the image being filled, "" before it was made. Digest is its digest: what
	// has the name and another digest is somebody else's.
	Image  store.ID `json:"image,omitempty"`
	Digest string   `json:"digest"`
	// Done is up to where it is filled, durably, in bytes; Total is where it ends.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Format is what is known of the content.
	Format store.Format `json:"format,omitempty"`
	// Doomed: the image is being removed.
	Doomed bool `json:"doomed,omitempty"`
}

const copyPrefix = "copy/"

func copyNote(image string) string { return copyPrefix + image }

func (r copyRecord) encode() string {
	data, err := json.Marshal(r)
	if err != nil {
		panic(err) // texts, numbers and truth values
	}
	return string(data)
}

func (r copyRecord) temporary() bool { return r.Frozen != "" && r.Frozen != r.Source }

// readCopy reads the note of a copy; nil if there is none. text is the note itself.
func readCopy(ctx context.Context, m pool.Member, image string) (r *copyRecord, text string, err error) {
	if text, err = note(ctx, m, copyNote(image)); err != nil || text == "" {
		return nil, "", err
	}
	r, err = parseCopy(text)
	return r, text, err
}

func parseCopy(text string) (*copyRecord, error) {
	r := new(copyRecord)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, fmt.Errorf("note of a copy: %w: %w", err, store.ErrCorrupt)
	}
	return r, nil
}

// whole refuses an image that is still being filled: ErrBusy.
func (s *Service) whole(ctx context.Context, f found) error {
	r, _, err := readCopy(ctx, f.m, f.info.Name)
	switch {
	case err != nil:
		return err
	case r == nil || r.Image != f.info.ID:
		return nil
	}
	return fmt.Errorf("image %s is still being copied (%d of %d bytes): %w", f.info.Ref(), r.Done, r.Total, store.ErrBusy)
}

// copyTo makes the image at m as a copy of src, which is on another store. It returns
// ErrBusy while the copy is under way. Every step is found again by a repetition.
func (s *Service) copyTo(ctx context.Context, p *plan, m pool.Member, src *found, size int64) (found, error) {
	c := &copying{key: copyKey(p.pool.Name, p.image), pool: p.pool.Name, image: p.image, m: m}
	if err := s.lastCopy(c.key); err != nil {
		return found{}, fmt.Errorf("volume %s: copy to %s: %w", p.Name, m, err)
	}
	there, err := s.announce(ctx, c, p, src)
	if err != nil {
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	} else if there != nil {
		return s.existing(ctx, p, found{p.pool.Name, m, *there})
	}
	if err := s.freeze(ctx, c, src); err != nil {
		return found{}, s.abandon(ctx, c, fmt.Errorf("volume %s: %w", p.Name, err))
	}
	spec := p.spec(nil, size)
	spec.BlockSize = src.info.BlockSize
	info, err := s.make(ctx, m, spec)
	if err != nil {
		return found{}, s.abandon(ctx, c, fmt.Errorf("volume %s: %w", p.Name, err))
	}
	failpoint.Hit("volume.copy.made")
	if err := c.adopt(ctx, info.ID); err != nil {
		return found{}, fmt.Errorf("volume %s: %w", p.Name, err)
	}
	failpoint.Hit("volume.copy.known")
	return found{}, s.startCopy(c)
}

// announce writes the note of the copy, or takes up the one that is there. An image
// without a note is complete, and is returned.
func (s *Service) announce(ctx context.Context, c *copying, p *plan, src *found) (*store.Info, error) {
	r, text, err := readCopy(ctx, c.m, c.image)
	if err != nil {
		return nil, err
	}
	if r != nil {
		c.record, c.text = *r, text
		if !r.Doomed && r.Digest == p.digest {
			return nil, nil
		}
		if err := s.undoCopy(ctx, c); err != nil { // of an earlier attempt that failed
			return nil, err
		}
	}
	info, err := c.m.Remote.Lookup(ctx, c.image)
	switch {
	case err == nil:
		return &info, nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("%s: %w", c.m, err)
	}
	c.text = ""
	err = c.save(ctx, copyRecord{Pool: src.pool, Store: src.m.UUID, Source: src.info.ID, Digest: p.digest, Total: src.info.Size})
	failpoint.Hit("volume.copy.noted")
	return nil, err
}

// freeze makes sure that there is something to read that does not change.
func (s *Service) freeze(ctx context.Context, c *copying, src *found) error {
	if c.record.Frozen != "" {
		return nil
	}
	next := c.record
	frozen := src.info
	if src.info.Kind == store.KindImage {
		name := internalPrefix + hash(c.key)
		snap, err := src.m.Remote.Snapshot(ctx, src.info.ID, name)
		if errors.Is(err, store.ErrConflict) { // an earlier attempt took it
			snap, err = src.m.Remote.Lookup(ctx, src.info.Name+"@"+name)
		}
		if err != nil {
			return fmt.Errorf("freeze %s: %s: %w", src.info.Ref(), src.m, err)
		}
		failpoint.Hit("volume.copy.frozen")
		frozen = snap
	}
	next.Frozen, next.Total, next.Format = frozen.ID, frozen.Size, frozen.Format
	return c.save(ctx, next)
}

// abandon takes back what a copy has left if cause means that it never gets further
// there: then nothing of it remains. Anything else is left for a repetition.
func (s *Service) abandon(ctx context.Context, c *copying, cause error) error {
	final := false
	for _, is := range []error{store.ErrNoSpace, store.ErrNotFound, store.ErrRange, store.ErrInvalid, store.ErrConflict} {
		final = final || errors.Is(cause, is)
	}
	if !final {
		return cause
	}
	if err := s.undoCopy(ctx, c); err != nil { // the cause would promise that nothing is left
		return fmt.Errorf("%v; clean up: %v: %w", cause, err, store.ErrUnavailable)
	}
	return cause
}

// undoCopy removes the image of a copy, the snapshot taken for it, and last its note.
func (s *Service) undoCopy(ctx context.Context, c *copying) error {
	if !c.record.Doomed {
		next := c.record
		next.Doomed = true
		if err := c.save(ctx, next); err != nil {
			return err
		}
		failpoint.Hit("volume.copy.doomed")
	}
	image, err := c.target(ctx)
	if err == nil && image != "" {
		err = c.m.Remote.Remove(ctx, image)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("remove the copy %s: %s: %w", c.image, c.m, unsure(err))
	}
	failpoint.Hit("volume.copy.removed")
	return s.endCopy(ctx, c)
}

// target is the image of the copy, "" if there is none. The note may not know yet.
func (c *copying) target(ctx context.Context) (store.ID, error) {
	if c.record.Image != "" {
		return c.record.Image, nil
	}
	info, err := c.m.Remote.Lookup(ctx, c.image)
	if err != nil || info.Digest != c.record.Digest {
		return "", err
	}
	return info.ID, nil
}

// endCopy removes the snapshot that was taken for the copy, then the note.
func (s *Service) endCopy(ctx context.Context, c *copying) error {
	if c.record.temporary() {
		f, err := s.find(ctx, id{snapshotPrefix, c.record.Pool, c.record.Frozen, c.record.Store})
		if err == nil {
			err = f.m.Remote.Remove(ctx, f.info.ID)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("remove the snapshot taken for the copy %s: %w", c.image, unsure(err))
		}
		failpoint.Hit("volume.copy.thawed")
	}
	if err := swap(ctx, c.m, copyNote(c.image), c.text, ""); err != nil {
		return err
	}
	failpoint.Hit("volume.copy.ended")
	return nil
}

// continueCopy answers nil if the image is complete; else it sees to it that the copy
// goes on and returns ErrBusy, or that what made it impossible is cleared away.
func (s *Service) continueCopy(ctx context.Context, p *plan, f found) error {
	c := &copying{key: copyKey(p.pool.Name, p.image), pool: p.pool.Name, image: p.image, m: f.m}
	if err := s.lastCopy(c.key); err != nil {
		return fmt.Errorf("volume %s: copy to %s: %w", p.Name, f.m, err)
	}
	r, text, err := readCopy(ctx, f.m, f.info.Name)
	if err != nil || r == nil {
		return err
	}
	c.record, c.text = *r, text
	if r.Doomed {
		if err := s.undoCopy(ctx, c); err != nil {
			return err
		}
		return fmt.Errorf("volume %s: an earlier attempt was cleared away: %w", p.Name, store.ErrBusy)
	}
	if r.Frozen == "" {
		return fmt.Errorf("volume %s: image %s was there before its copy began: %w", p.Name, f.info.ID, store.ErrConflict)
	}
	if err := c.adopt(ctx, f.info.ID); err != nil { // made, and the note does not know it yet
		return err
	}
	return s.startCopy(c)
}

// finishUndo completes the removal of a copy whose image is gone: a delete was
// interrupted after it had removed the image.
func (s *Service) finishUndo(ctx context.Context, poolName string, image store.ID) error {
	v, err := s.view(ctx, poolName, s.pools.View)
	if err != nil {
		return err
	}
	if v = s.complete(ctx, v); v.Err() != nil {
		return fmt.Errorf("see whether a copy is left to remove: %w", v.Err())
	}
	for _, m := range v.Members {
		var left []*copying
		err := m.Remote.Notes(ctx, copyPrefix, func(key, text string) error {
			r, err := parseCopy(text)
			if err == nil && r.Doomed && r.Image == image {
				name := key[len(copyPrefix):]
				left = append(left, &copying{key: copyKey(poolName, name), pool: poolName, image: name, m: m, record: *r, text: text})
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
		for _, c := range left {
			if err := s.endCopy(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}
