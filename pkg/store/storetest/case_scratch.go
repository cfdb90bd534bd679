package storetest

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// TestPublishShared: several nodes may share what none of them owns.
func (s *suite) TestPublishShared() {
	img := s.create("img", blk)
	a := s.publish(img.ID, "a", store.AccessShared)
	b := s.publish(img.ID, "b", store.AccessShared)
	if a.Token == b.Token || a.Epoch == b.Epoch {
		s.Errorf("two nodes share the publication %+v", a)
	}
	if again := s.publish(img.ID, "a", store.AccessShared); again != a {
		s.Errorf("published again: %+v, want %+v", again, a)
	}
	for _, access := range []store.Access{store.AccessWrite, store.AccessRead, store.AccessScratch} {
		for _, node := range []string{"a", "c"} {
			_, err := s.s.Publish(s.ctx, img.ID, node, access)
			s.wantErr(err, fmt.Sprintf("access %s for node %s beside shared", access, node), store.ErrInUse)
		}
	}
	s.must(s.s.Unpublish(s.ctx, img.ID, "a"), "unpublish")
	if got := s.publications(img.ID); len(got) != 1 || got[0] != b {
		s.Errorf("left are %+v, want %+v", got, b)
	}
	_, err := s.s.Publish(s.ctx, s.snapshot(img.ID, "s").ID, "a", store.AccessShared)
	s.wantErr(err, "sharing a snapshot", store.ErrReadOnly)
	for _, access := range []store.Access{"", "Write", "rw"} {
		_, err := s.s.Publish(s.ctx, img.ID, "b", access)
		s.wantErr(err, "publish with no known access", store.ErrInvalid)
	}
}

// TestScratch: a private head shows what was published, takes writes that nobody else
// sees, and goes with its publication, whatever its source is.
func (s *suite) TestScratch() {
	img := s.create("img", 8*blk)
	s.fill(img.ID, 0, 4*blk, 'a')
	snap := s.snapshot(img.ID, "s")
	s.fill(img.ID, 2*blk, 4*blk, 'b')
	s.settle()
	before, err := s.s.Status(s.ctx)
	s.must(err, "status")
	for _, o := range []store.Info{snap, img} {
		want := s.read(o.ID)
		heads := make(map[store.ID]byte)
		for i, node := range []string{"n1", "n2", "n3"} {
			p := s.publish(o.ID, node, store.AccessScratch)
			if p.Target == o.ID || heads[p.Target] != 0 {
				s.Fatalf("node %s of %s is given %s", node, o.Ref(), p.Target)
			}
			heads[p.Target] = byte('1' + i)
			s.wantBytes(p.Target, want, "a new private head of "+o.Ref())
			s.fill(p.Target, blk+100, 3*blk, heads[p.Target])
			s.discard(p.Target, 6*blk, blk)
			if again := s.publish(o.ID, node, store.AccessScratch); again != p {
				s.Errorf("published again: %+v, want %+v", again, p)
			}
		}
		s.publish(o.ID, "n4", store.AccessRead)
		s.wantBytes(o.ID, want, o.Ref()+" under private heads")
		for id, letter := range heads {
			s.wantRange(id, blk+100, 3*blk, letter, "a written private head")
		}
		s.must(s.s.Unpublish(s.ctx, o.ID, "n2"), "unpublish one")
		for id, letter := range heads {
			if letter != '2' {
				s.wantRange(id, blk+100, 3*blk, letter, "a private head beside one that went")
			}
		}
		s.must(s.s.Unpublish(s.ctx, o.ID, ""), "unpublish all")
		for id := range heads {
			_, err := s.s.Open(s.ctx, id)
			s.wantErr(err, "opening a private head that went", store.ErrNotFound)
			_, err = s.s.Stat(s.ctx, id)
			s.wantErr(err, "describing it", store.ErrNotFound)
		}
		s.wantBytes(o.ID, want, o.Ref()+" afterwards")
	}
	s.settle()
	after, err := s.s.Status(s.ctx)
	s.must(err, "status")
	// The published image was frozen, which costs it one layer.
	if after.Layers > before.Layers+1 {
		s.Errorf("%d layers are left, before there were %d", after.Layers, before.Layers)
	}
}

// TestScratchHidden: a private head is nobody's image, and its source stays.
func (s *suite) TestScratchHidden() {
	base := s.create("base", 4*blk)
	s.fill(base.ID, 0, 2*blk, 'a')
	img := s.clone("img", base.ID)
	snap := s.snapshot(img.ID, "s")
	usage, err := s.s.Usage(s.ctx, snap.ID)
	s.must(err, "usage")
	before := s.walk()
	p := s.publish(snap.ID, "node", store.AccessScratch)
	for _, i := range s.walk() {
		if i.ID == p.Target {
			s.Errorf("a walk shows the private head %+v", i)
		}
	}
	if after := s.walk(); len(after) != len(before) {
		s.Errorf("a walk shows %d objects, before it was %d", len(after), len(before))
	}
	for _, id := range []store.ID{img.ID, snap.ID} {
		kids, err := s.s.Children(s.ctx, id)
		if err != nil || len(kids) != 0 {
			s.Errorf("the children are %+v, %v", kids, err)
		}
	}
	status, err := s.s.Status(s.ctx)
	if err != nil || status.Images != 2 || status.Snapshots != 1 {
		s.Errorf("%d images and %d snapshots are counted, %v", status.Images, status.Snapshots, err)
	}
	if got, err := s.s.Usage(s.ctx, snap.ID); err != nil || got.Own != usage.Own || got.Shared != usage.Shared {
		s.Errorf("usage is %+v, %v, before it was %+v", got, err, usage)
	}
	if got := s.stat(p.Target); got.Node != "node" || got.Size != snap.Size || got.Kind != store.KindImage {
		s.Errorf("the private head is %+v", got)
	}
	if got := s.publications(p.Target); len(got) != 1 || got[0] != p {
		s.Errorf("the private head belongs to %+v, want %+v", got, p)
	}
	s.wantErr(s.s.Remove(s.ctx, snap.ID), "removing what has a private head", store.ErrInUse)
	s.refuseHead(p.Target, snap.ID)
	s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
	s.remove(base.ID)
	s.wantRange(p.Target, 0, 2*blk, 'a', "the private head of a flattened image")
}

// refuseHead requires that a private head takes no orders.
func (s *suite) refuseHead(head, snap store.ID) {
	s.Helper()
	begun := store.FormatBegun
	refused := map[string]func() error{
		"snapshot":  func() error { _, err := s.s.Snapshot(s.ctx, head, "x"); return err },
		"clone":     func() error { _, err := s.s.Create(s.ctx, store.Spec{Name: "x", Parent: head}); return err },
		"resize":    func() error { _, err := s.s.Resize(s.ctx, head, 64*blk); return err },
		"revert":    func() error { return s.s.Revert(s.ctx, head, snap) },
		"remove":    func() error { return s.s.Remove(s.ctx, head) },
		"flatten":   func() error { _, err := s.s.StartFlatten(s.ctx, head); return err },
		"publish":   func() error { _, err := s.s.Publish(s.ctx, head, "n", store.AccessRead); return err },
		"unpublish": func() error { return s.s.Unpublish(s.ctx, head, "") },
		"modify":    func() error { _, err := s.s.Modify(s.ctx, head, store.Change{Format: &begun}); return err },
	}
	for what, call := range refused {
		s.wantErr(call(), what+" of a private head", store.ErrInUse)
	}
}

// TestScratchDepth: a private head is made at any depth and asks for no flatten.
func (s *suite) TestScratchDepth() {
	base := s.image(store.Spec{Name: "base", Size: blk, Policy: store.Policy{Soft: 1, Hard: 1}})
	want := s.fill(base.ID, 0, blk, 'a')
	img := s.clone("img", base.ID)
	p := s.publish(img.ID, "node", store.AccessScratch)
	s.settle()
	if got := s.stat(img.ID).Depth; got != 1 {
		s.Errorf("the image has depth %d, want 1", got)
	}
	s.wantBytes(p.Target, want, "the private head")
}

// TestScratchReopen: a private head and its bytes live as long as its publication.
func (s *suite) TestScratchReopen() {
	img := s.create("img", 4*blk)
	s.fill(img.ID, 0, blk, 'a')
	p := s.publish(img.ID, "node", store.AccessScratch)
	s.fill(p.Target, blk, blk, 'b')
	s.reopen()
	if got := s.publications(img.ID); len(got) != 1 || got[0] != p {
		s.Errorf("after reopening the publications are %+v, want %+v", got, p)
	}
	want := append(bytes.Repeat([]byte{'a'}, int(blk)), bytes.Repeat([]byte{'b'}, int(blk))...)
	s.wantBytes(p.Target, append(want, make([]byte, 2*blk)...), "the private head after reopening")
	s.must(s.s.Unpublish(s.ctx, img.ID, "node"), "unpublish")
	s.reopen()
	_, err := s.s.Stat(s.ctx, p.Target)
	s.wantErr(err, "a private head that went, after reopening", store.ErrNotFound)
	s.remove(img.ID)
}

// TestScratchFenced: devices of a private head that went answer so, and its source can
// be removed although they are still open.
func (s *suite) TestScratchFenced() {
	img := s.create("img", 4*blk)
	s.fill(img.ID, 0, blk, 'a')
	p := s.publish(img.ID, "node", store.AccessScratch)
	d := s.open(p.Target)
	_, err := d.WriteAt(make([]byte, 512), 512)
	s.must(err, "write")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			if _, err := d.WriteAt([]byte("late"), 0); err != nil {
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	s.must(s.s.Unpublish(s.ctx, img.ID, "node"), "unpublish with an open device")
	_, err = d.WriteAt(make([]byte, 512), 0)
	s.wantErr(err, "a write afterwards", store.ErrFenced)
	_, err = d.ReadAt(make([]byte, 512), 0)
	s.wantErr(err, "a read afterwards", store.ErrFenced)
	s.wantErr(d.Flush(), "a flush afterwards", store.ErrFenced)
	s.wantErr(d.Discard(0, blk), "a discard afterwards", store.ErrFenced)
	close(stop)
	wg.Wait()
	s.wantRange(img.ID, 0, blk, 'a', "the source")
	s.remove(img.ID)
	s.settle()
	s.must(d.Close(), "close")
}

func (s *suite) walk() (list []store.Info) {
	s.Helper()
	s.must(s.s.Walk(s.ctx, func(i store.Info) error {
		list = append(list, i)
		return nil
	}), "walk")
	return list
}
