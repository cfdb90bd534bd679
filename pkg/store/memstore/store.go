package memstore

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/strata-csi/strata/pkg/store"
)

var _ store.Full = (*Store)(nil)

// Store is a store.Full in memory. Make one with New. All methods may be called
// concurrently; one lock makes every call a single step.
type Store struct {
	disk   *disk
	gen    uint64
	closes atomic.Int64
}

// disk is what outlives a Store.
type disk struct {
	mu      sync.Mutex
	uuid    string
	gen     uint64 // the Store that may use it; others are closed
	objects map[store.ID]*object
	images  map[string]*object   // live images by name
	heads   map[store.ID]*object // private heads of publications
	notes   map[string]string
	copied  int64       // by flattens since the store was opened
	done    []store.Job // the latest finished jobs, oldest first
}

// New returns an empty store.
func New() *Store {
	d := &disk{
		uuid:    string(store.NewID()),
		objects: make(map[store.ID]*object),
		images:  make(map[string]*object),
		heads:   make(map[store.ID]*object),
		notes:   make(map[string]string),
	}
	return d.attach()
}

// Reopen returns the same store as it is after a restart. Called after Close it
// stands for a clean one, called without for a crash: the old Store and its devices
// answer store.ErrClosed from then on, and every write that was answered is there.
func (s *Store) Reopen() *Store {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.disk.attach()
}

func (d *disk) attach() *Store {
	d.gen++
	d.copied, d.done = 0, nil
	for o := range d.views() {
		o.opened = 0
	}
	return &Store{disk: d, gen: d.gen}
}

// Closes is how often Close was called.
func (s *Store) Closes() int64 { return s.closes.Load() }

// Close releases the store. Devices still open answer store.ErrClosed.
func (s *Store) Close() error {
	s.closes.Add(1)
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if s.gen == s.disk.gen {
		s.disk.gen++
	}
	return nil
}

// enter locks the store for one call. The caller unlocks it if there is no error.
func (s *Store) enter(ctx context.Context) (*disk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.disk.mu.Lock()
	if s.gen != s.disk.gen {
		s.disk.mu.Unlock()
		return nil, fmt.Errorf("store %s: %w", s.disk.uuid, store.ErrClosed)
	}
	return s.disk, nil
}

// views runs over everything that shows bytes: objects and private heads.
func (d *disk) views() iter.Seq[*object] {
	return func(yield func(*object) bool) {
		for _, m := range []map[store.ID]*object{d.objects, d.heads} {
			for _, o := range m {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// any returns an object or a private head.
func (d *disk) any(id store.ID) (*object, error) {
	if head := d.heads[id]; head != nil {
		return head, nil
	}
	return d.find(id, "")
}

// find returns an object; with kind set, one of another kind is refused, as is a
// private head always.
func (d *disk) find(id store.ID, kind store.Kind) (*object, error) {
	o := d.objects[id]
	switch {
	case d.heads[id] != nil:
		return nil, fmt.Errorf("%q belongs to the publication of %q: %w", id, d.heads[id].info.Name, store.ErrInUse)
	case o == nil && kind != "":
		return nil, fmt.Errorf("%s %q: %w", kind, id, store.ErrNotFound)
	case o == nil:
		return nil, fmt.Errorf("object %q: %w", id, store.ErrNotFound)
	case kind != "" && o.info.Kind != kind:
		return nil, fmt.Errorf("%s %q is no %s: %w", o.info.Kind, id, kind, store.ErrInvalid)
	}
	return o, nil
}

// Stat describes one object.
func (s *Store) Stat(ctx context.Context, id store.ID) (store.Info, error) {
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %q: %w", id, err)
	}
	defer d.mu.Unlock()
	o, err := d.any(id)
	if err != nil {
		return store.Info{}, fmt.Errorf("stat: %w", err)
	}
	return o.describe(), nil
}

// Lookup resolves "image" or "image@snapshot". A snapshot whose image was removed is
// found by the image's old name as long as no other image has it.
func (s *Store) Lookup(ctx context.Context, ref string) (store.Info, error) {
	image, snapshot, err := store.SplitRef(ref)
	if err != nil {
		return store.Info{}, fmt.Errorf("look up %q: %w", ref, err)
	}
	d, err := s.enter(ctx)
	if err != nil {
		return store.Info{}, fmt.Errorf("look up %q: %w", ref, err)
	}
	defer d.mu.Unlock()
	o := d.images[image]
	switch {
	case snapshot != "" && o != nil:
		o = o.fam.snaps[snapshot]
	case snapshot != "":
		o = d.orphan(image, snapshot)
	}
	if o == nil {
		return store.Info{}, fmt.Errorf("look up %q: %w", ref, store.ErrNotFound)
	}
	return o.describe(), nil
}

// orphan finds the newest snapshot of that name whose image was removed.
func (d *disk) orphan(image, snapshot string) *object {
	var found *object
	for _, o := range d.objects {
		if o.fam.image != nil || o.fam.name != image || o.info.Name != snapshot {
			continue
		}
		if found == nil || o.info.Created.After(found.info.Created) {
			found = o
		}
	}
	return found
}

// Walk calls fn for every object, families in the order of image names, an image
// before its snapshots. fn may use the store.
func (s *Store) Walk(ctx context.Context, fn func(store.Info) error) error {
	d, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	list := d.list()
	d.mu.Unlock()
	for _, info := range list {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("walk: %w", err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) list() []store.Info {
	var list []store.Info
	for _, o := range d.objects {
		list = append(list, o.describe())
	}
	slices.SortFunc(list, func(a, b store.Info) int {
		if c := strings.Compare(a.ImageName, b.ImageName); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Image), string(b.Image)); c != 0 {
			return c
		}
		if a.Kind != b.Kind {
			return strings.Compare(string(a.Kind), string(b.Kind)) // image, snapshot
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}
