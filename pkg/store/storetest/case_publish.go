package storetest

import (
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

func (s *suite) publish(id store.ID, node string, access store.Access) store.Publication {
	s.Helper()
	p, err := s.s.Publish(s.ctx, id, node, access)
	s.must(err, "publish %s to %s", id, node)
	if p.ID != id || p.Node != node || p.Access != access || p.Target != id && access != store.AccessScratch || p.Epoch == 0 ||
		len(p.Token) != 32 || strings.Trim(p.Token, "0123456789abcdef") != "" {
		s.Errorf("the publication is %+v", p)
	}
	return p
}

// TestPublishOneWriter: one node may write; the same node gets the same right again.
func (s *suite) TestPublishOneWriter() {
	img := s.create("img", blk)
	p := s.publish(img.ID, "a", store.AccessWrite)
	if again := s.publish(img.ID, "a", store.AccessWrite); again != p {
		s.Errorf("published again, the same node gets %+v, want %+v", again, p)
	}
	if got := s.stat(img.ID).Node; got != "a" {
		s.Errorf("the image says it is published to %q", got)
	}
	for _, access := range []store.Access{store.AccessWrite, store.AccessRead, store.AccessShared} {
		_, err := s.s.Publish(s.ctx, img.ID, "b", access)
		s.wantErr(err, "publish to a second node", store.ErrInUse)
	}
	s.must(s.s.Unpublish(s.ctx, img.ID, "b"), "unpublish a node that has nothing")
	if got := s.publications(img.ID); len(got) != 1 || got[0] != p {
		s.Errorf("publications are %+v", got)
	}
	s.must(s.s.Unpublish(s.ctx, img.ID, "a"), "unpublish")
	s.must(s.s.Unpublish(s.ctx, img.ID, "a"), "unpublish again")
	if got := s.stat(img.ID).Node; got != "" {
		s.Errorf("unpublished, the image says it is published to %q", got)
	}
	q := s.publish(img.ID, "b", store.AccessWrite)
	if q.Epoch <= p.Epoch || q.Token == p.Token {
		s.Errorf("the next publication is %+v after %+v", q, p)
	}
	s.must(s.s.Unpublish(s.ctx, img.ID, ""), "unpublish all")
	if r := s.publish(img.ID, "b", store.AccessWrite); r.Epoch <= q.Epoch || r.Token == q.Token {
		s.Errorf("the next publication of the same node is %+v after %+v", r, q)
	}
}

// TestPublishReaders: read-only publications coexist and keep writers out.
func (s *suite) TestPublishReaders() {
	img := s.create("img", blk)
	snap := s.snapshot(img.ID, "snap")
	for _, o := range []store.Info{img, snap} {
		tokens := make(map[string]bool)
		for _, node := range []string{"a", "b", "c"} {
			tokens[s.publish(o.ID, node, store.AccessRead).Token] = true
		}
		if len(tokens) != 3 {
			s.Errorf("three nodes share %d tokens", len(tokens))
		}
		_, err := s.s.Publish(s.ctx, o.ID, "d", store.AccessWrite)
		s.wantErr(err, "publish for writing beside readers of "+o.Ref(), store.ErrInUse, store.ErrReadOnly)
		s.must(s.s.Unpublish(s.ctx, o.ID, "b"), "unpublish")
		if got := s.publications(o.ID); len(got) != 2 {
			s.Errorf("%d publications of %s are left, want 2", len(got), o.Ref())
		}
	}
	if got := s.publications(""); len(got) != 4 {
		s.Errorf("%d publications in all, want 4", len(got))
	}
	s.must(s.s.Unpublish(s.ctx, img.ID, ""), "unpublish all of the image")
	if got := s.publications(""); len(got) != 2 || got[0].ID != snap.ID {
		s.Errorf("what is left: %+v", got)
	}
	s.must(s.s.Unpublish(s.ctx, snap.ID, ""), "unpublish all of the snapshot")
	_, err := s.s.Publish(s.ctx, snap.ID, "a", store.AccessWrite)
	s.wantErr(err, "publish of a snapshot for writing", store.ErrReadOnly, store.ErrInvalid)
	_, err = s.s.Publish(s.ctx, img.ID, "", store.AccessWrite)
	s.wantErr(err, "publish to no node", store.ErrInvalid)
}

// TestPublishAllows: what a publication does not forbid goes on.
func (s *suite) TestPublishAllows() {
	parent := s.create("parent", 2*blk)
	want := s.fill(parent.ID, 0, 2*blk, 'a')
	img := s.clone("img", parent.ID)
	p := s.publish(img.ID, "a", store.AccessWrite)
	snap := s.snapshot(img.ID, "snap")
	child := s.clone("child", img.ID)
	s.must(s.s.Flatten(s.ctx, img.ID), "flatten")
	s.resize(img.ID, 4*blk)
	s.remove(snap.ID)
	s.remove(parent.ID)
	s.wantBytes(child.ID, want, "a clone of a published image")
	if got := s.publications(img.ID); len(got) != 1 || got[0] != p {
		s.Errorf("after all that the publications are %+v, want %+v", got, p)
	}
}

// TestPublishReopen: publications are durable, and epochs rise over reopening.
func (s *suite) TestPublishReopen() {
	img, other := s.create("img", blk), s.create("other", blk)
	p, q := s.publish(img.ID, "a", store.AccessWrite), s.publish(other.ID, "a", store.AccessWrite)
	s.must(s.s.Unpublish(s.ctx, other.ID, "a"), "unpublish")
	s.reopen()
	if got := s.publications(""); len(got) != 1 || got[0] != p {
		s.Errorf("after reopening the publications are %+v, want %+v", got, p)
	}
	if again := s.publish(img.ID, "a", store.AccessWrite); again != p {
		s.Errorf("published again after reopening: %+v, want %+v", again, p)
	}
	s.wantErr(s.s.Remove(s.ctx, img.ID), "remove of a published image after reopening", store.ErrInUse)
	if next := s.publish(other.ID, "b", store.AccessWrite); next.Epoch <= q.Epoch {
		s.Errorf("after reopening the epoch is %d, before it was %d", next.Epoch, q.Epoch)
	}
}

func (s *suite) publications(id store.ID) []store.Publication {
	s.Helper()
	list, err := s.s.Publications(s.ctx, id)
	s.must(err, "publications")
	return list
}
