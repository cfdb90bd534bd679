package storetest

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

func yield() { runtime.Gosched() }

// poke writes to an image behind the suite's back.
func (b bent) poke(id store.ID, off int64, p []byte) {
	d, err := b.Open(context.Background(), id)
	if err != nil {
		return
	}
	defer d.Close()
	_, _ = d.WriteAt(p, off) // what does not fit is not there
}

func (b bent) peek(id store.ID, off, length int64) []byte {
	p, err := readRange(context.Background(), b.Store, id, off, length)
	if err != nil {
		return make([]byte, length)
	}
	return p
}

// memory is what some mutants remember of images.
type memory struct {
	mu     sync.Mutex
	blocks map[store.ID]map[int64][]byte
}

func (m *memory) keep(id store.ID, off int64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blocks[id] == nil {
		m.blocks[id] = make(map[int64][]byte)
	}
	m.blocks[id][off] = p
}

func (m *memory) take(id store.ID) map[int64][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := m.blocks[id]
	delete(m.blocks, id)
	return kept
}

// forgetful lets discarded data reappear when the image is snapshot or cloned.
type forgetful struct {
	bent
	*memory
}

func newForgetful(s *memstore.Store) store.Full {
	return forgetful{bent{s}, &memory{blocks: make(map[store.ID]map[int64][]byte)}}
}

func (f forgetful) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := f.bent.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	b := &bentDevice{Device: d}
	b.discard = func(off, length int64) error {
		first, last := (off+blk-1)/blk*blk, (off+length)/blk*blk
		if d.Info().Depth > 0 && first < last && last <= d.Info().Size {
			f.keep(id, first, f.peek(id, first, last-first))
		}
		return d.Discard(off, length)
	}
	b.write = func(p []byte, off int64) (int, error) { f.take(id); return d.WriteAt(p, off) }
	b.zero = func(off, n int64, a bool) error { f.take(id); return d.Zero(off, n, a) }
	return b, nil
}

func (f forgetful) Snapshot(ctx context.Context, id store.ID, name string) (store.Info, error) {
	for off, p := range f.take(id) {
		f.poke(id, off, p)
	}
	return f.bent.Snapshot(ctx, id, name)
}

// regrowing brings back what a shrink cut off.
type regrowing struct {
	bent
	*memory
}

func newRegrowing(s *memstore.Store) store.Full {
	return regrowing{bent{s}, &memory{blocks: make(map[store.ID]map[int64][]byte)}}
}

func (r regrowing) Resize(ctx context.Context, id store.ID, size int64) (store.Info, error) {
	before, err := r.Stat(ctx, id)
	if err != nil {
		return before, err
	}
	if size > 0 && size < before.Size {
		r.keep(id, size, r.peek(id, size, before.Size-size))
	}
	info, err := r.bent.Resize(ctx, id, size)
	if err == nil && size > before.Size {
		for off, p := range r.take(id) {
			r.poke(id, off, p[:min(int64(len(p)), max(0, size-off))])
		}
	}
	return info, err
}

// overlapGrows reports the size as overlap.
type overlapGrows struct{ bent }

func (o overlapGrows) Stat(ctx context.Context, id store.ID) (store.Info, error) {
	i, err := o.bent.Stat(ctx, id)
	if i.Overlap > 0 {
		i.Overlap = i.Size
	}
	return i, err
}

// leaky shows the living parent beyond the overlap of a larger clone.
type leaky struct{ bent }

func (l leaky) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	i, err := l.bent.Create(ctx, spec)
	if err == nil && i.Size > i.Overlap && i.Overlap > 0 {
		if parent, err := l.Stat(ctx, i.Parent); err == nil && parent.Size > i.Overlap {
			l.poke(i.ID, i.Overlap, l.peek(parent.ID, i.Overlap, min(parent.Size, i.Size)-i.Overlap))
		}
	}
	return i, err
}

// shared shows the image where its newest snapshot should be.
type shared struct{ bent }

func (s shared) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := s.bent.Open(ctx, id)
	if err != nil || d.Info().Kind != store.KindSnapshot {
		return d, err
	}
	b := &bentDevice{Device: d}
	image := d.Info().Image
	b.read = func(p []byte, off int64) (int, error) {
		if i, err := s.Stat(ctx, image); err == nil && off >= 0 && off+int64(len(p)) <= i.Size {
			copy(p, s.peek(image, off, int64(len(p))))
			return len(p), nil
		}
		return d.ReadAt(p, off)
	}
	return b, nil
}

// shortDiff leaves the last changed extent out.
type shortDiff struct{ bent }

func (s shortDiff) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	var all []store.Extent
	err := s.bent.Diff(ctx, from, to, func(e store.Extent) error { all = append(all, e); return nil })
	for _, e := range all[:max(0, len(all)-1)] {
		if err == nil {
			err = fn(e)
		}
	}
	return err
}

// wideDiff lists what was not touched.
type wideDiff struct{ bent }

func (w wideDiff) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	err := w.bent.Diff(ctx, from, to, func(store.Extent) error { return nil })
	if err != nil {
		return err
	}
	return w.bent.Diff(ctx, "", to, fn)
}

// orphaning clears a block of every child of what is removed.
type orphaning struct{ bent }

func (o orphaning) Remove(ctx context.Context, id store.ID) error {
	children, _ := o.Children(ctx, id)
	err := o.bent.Remove(ctx, id)
	for _, c := range children {
		if err == nil {
			o.poke(c.ID, 0, make([]byte, blk))
		}
	}
	return err
}

// careless removes what is open.
type careless struct{ bent }

func (c careless) Remove(ctx context.Context, id store.ID) error {
	err := c.bent.Remove(ctx, id)
	if err != nil {
		if again := c.Unpublish(ctx, id, ""); again == nil {
			return c.bent.Remove(ctx, id)
		}
	}
	return err
}

// counting counts depth as far as the parents' snapshots are named, as if a clone of
// an image added none.
type shallow struct{ bent }

func (s shallow) Stat(ctx context.Context, id store.ID) (store.Info, error) {
	i, err := s.bent.Stat(ctx, id)
	i.Depth = min(i.Depth, 1)
	return i, err
}

// headOnly says that a flattened image's snapshots still have their parent.
type sluggish struct{ bent }

func (s sluggish) StartFlatten(ctx context.Context, id store.ID) (store.Job, error) {
	i, err := s.Stat(ctx, id)
	if err != nil {
		return store.Job{}, err
	}
	return store.Job{ID: "j", Kind: store.JobFlatten, Target: string(i.ID), State: store.JobDone}, nil
}

func (s sluggish) Flatten(ctx context.Context, id store.ID) error {
	_, err := s.StartFlatten(ctx, id)
	return err
}

// blind walks in the wrong order.
type blind struct{ bent }

func (b blind) Walk(ctx context.Context, fn func(store.Info) error) error {
	var all []store.Info
	err := b.bent.Walk(ctx, func(i store.Info) error { all = append(all, i); return nil })
	slices.Reverse(all)
	for _, i := range all {
		if err == nil {
			err = fn(i)
		}
	}
	return err
}

// unlimitedDepth ignores the policy.
type unlimitedDepth struct{ bent }

func (u unlimitedDepth) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	if spec.Policy != (store.Policy{}) && spec.Policy.Soft >= 0 && spec.Policy.Hard >= spec.Policy.Soft {
		spec.Policy = store.Policy{Soft: unlimited, Hard: unlimited}
	}
	return u.bent.Create(ctx, spec)
}

// generous publishes to everybody, with a new token each time.
type generous struct{ bent }

func (g generous) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	if node != "" {
		if err := g.Unpublish(ctx, id, ""); err != nil {
			return store.Publication{}, err
		}
	}
	return g.bent.Publish(ctx, id, node, access)
}

// repeating makes a second image of a repeated request.
type repeating struct{ bent }

func (r repeating) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	if i, err := r.Lookup(ctx, spec.Name); err == nil && spec.Digest != "" && i.Digest == spec.Digest {
		if err := r.Remove(ctx, i.ID); err != nil {
			return i, err
		}
	}
	return r.bent.Create(ctx, spec)
}

// stiff keeps the image's size in a revert.
type stiff struct{ bent }

func (s stiff) Revert(ctx context.Context, image, snapshot store.ID) error {
	before, _ := s.Stat(ctx, image)
	err := s.bent.Revert(ctx, image, snapshot)
	if err == nil {
		_, err = s.Resize(ctx, image, before.Size)
	}
	return err
}

// losing forgets the last write to each image when the process crashes.
type losing struct {
	bent
	*memory
}

func newLosing(s *memstore.Store) store.Full {
	return losing{bent{s}, &memory{blocks: make(map[store.ID]map[int64][]byte)}}
}

func (l losing) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := l.bent.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	b := &bentDevice{Device: d}
	b.write = func(p []byte, off int64) (int, error) {
		old := make([]byte, len(p))
		if _, err := d.ReadAt(old, off); err == nil {
			l.take(id)
			l.keep(id, off, old)
		}
		return d.WriteAt(p, off)
	}
	return b, nil
}

func (l losing) lose() {
	next := bent{l.Reopen()}
	for id, blocks := range l.blocks {
		for off, old := range blocks {
			next.poke(id, off, old)
		}
	}
}
