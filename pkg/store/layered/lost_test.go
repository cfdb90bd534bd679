package layered_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// published is an image with a publication.
func (l *lab) published(name string) (store.Info, store.Publication) {
	l.Helper()
	i := l.create(name, mib)
	l.write(i.ID, 0, mib/2, 1)
	p, err := l.st.Publish(l.ctx, i.ID, "node-"+name, store.AccessWrite)
	l.must(err)
	return i, p
}

// unflushed writes to an image and leaves it open, as a crash finds it.
func (l *lab) unflushed(id store.ID) {
	l.Helper()
	dev, err := l.st.Open(l.ctx, id)
	l.must(err)
	_, err = dev.WriteAt(pattern(8192, 2), 4096)
	l.must(err)
}

// keeps requires that a publication is as it was.
func (l *lab) keeps(p store.Publication, when string) {
	l.Helper()
	now, err := l.st.Publications(l.ctx, p.ID)
	l.must(err)
	if len(now) != 1 || now[0] != p {
		l.Errorf("%s the publication %+v is %+v", when, p, now)
	}
}

// retired requires that a publication is gone, was told of, and that the next one of
// the same node has a higher epoch and another token.
func (l *lab) retired(p store.Publication, when string) {
	l.Helper()
	list, err := l.st.Publications(l.ctx, p.ID)
	l.must(err)
	if len(list) != 0 {
		l.Errorf("%s the publication is still %+v", when, list)
	}
	if now := l.stat(p.ID); now.Node != "" {
		l.Errorf("%s the image is still at node %q", when, now.Node)
	}
	if !l.noted(string(p.ID), fmt.Sprintf("epoch %d of node %q is retired", p.Epoch, p.Node)) {
		l.Errorf("%s no event tells of it", when)
	}
	now, err := l.st.Publish(l.ctx, p.ID, p.Node, store.AccessWrite)
	l.must(err)
	if now.Epoch <= p.Epoch || now.Token == p.Token {
		l.Errorf("%s epoch %d (token %s) follows %d (%s)", when, now.Epoch, now.Token, p.Epoch, p.Token)
	}
}

func TestLostPageCacheRetiresPublications(t *testing.T) {
	for _, seed := range []uint64{0, 1, 2, 3, 4, 5, 6, 7} {
		l := newLab(t, nil)
		dirty, lost := l.published("dirty")
		clean, kept := l.published("clean")
		l.unflushed(dirty.ID)
		var rng *rand.Rand
		if seed > 0 {
			rng = rand.New(rand.NewPCG(seed, 0))
		}
		l.powerCut(rng)
		l.start()
		when := fmt.Sprintf("after power cut %d", seed)
		l.retired(lost, when)
		l.keeps(kept, when)
		l.want(clean.ID, "the clean image", append(pattern(mib/2, 1), make([]byte, mib/2)...))
		got := l.read(dirty.ID, 0, mib)
		if string(got[:4096]) != string(pattern(mib/2, 1)[:4096]) || string(got[12288:mib/2]) != string(pattern(mib/2, 1)[12288:]) {
			t.Errorf("%s flushed data of the dirty image is gone", when)
		}
		l.clean()
	}
}

// A flush is no clean mark: the client of an open image may have been answered a
// write after it. What was flushed is there all the same.
func TestLostPageCacheKeepsWhatWasFlushed(t *testing.T) {
	l := newLab(t, nil)
	i, p := l.published("image")
	dev, err := l.st.Open(l.ctx, i.ID)
	l.must(err)
	_, err = dev.WriteAt(pattern(8192, 2), 4096)
	l.must(err)
	l.must(dev.Flush())
	l.powerCut(nil)
	l.start()
	want := append(pattern(mib/2, 1), make([]byte, mib/2)...)
	copy(want[4096:], pattern(8192, 2))
	l.want(i.ID, "the image", want)
	list, err := l.st.Publications(l.ctx, i.ID)
	l.must(err)
	if len(list) == 1 && list[0] != p {
		t.Errorf("the publication changed from %+v to %+v", p, list[0])
	}
}

// A crash of the process loses no page cache: every publication stays, and so does
// every acknowledged write.
func TestProcessCrashKeepsPublications(t *testing.T) {
	l := newLab(t, nil)
	i, p := l.published("image")
	want := append(pattern(mib/2, 1), make([]byte, mib/2)...)
	copy(want[4096:], pattern(8192, 2))
	for round := range 3 {
		l.unflushed(i.ID)
		l.crash()
		l.start()
		l.keeps(p, fmt.Sprintf("after crash %d", round))
		l.want(i.ID, "the image", want)
	}
	l.restart()
	l.keeps(p, "after a restart")
	l.powerCut(nil) // it was closed cleanly, and only read since
	l.start()
	l.keeps(p, "after a power cut of a clean image")
	l.want(i.ID, "the image", want)
}

// A start after a process crash looks at every published image and leaves it flushed:
// a power cut that follows takes nothing.
func TestStartAfterCrashMakesDurable(t *testing.T) {
	l := newLab(t, nil)
	i, p := l.published("image")
	l.unflushed(i.ID)
	l.crash()
	l.start()
	l.powerCut(nil)
	l.start()
	l.keeps(p, "after a process crash, a start and a power cut")
	want := append(pattern(mib/2, 1), make([]byte, mib/2)...)
	copy(want[4096:], pattern(8192, 2))
	l.want(i.ID, "the image", want)
}

// Read-only publications, and those of snapshots, have nothing to lose.
func TestReadersKeepTheirPublications(t *testing.T) {
	l := newLab(t, nil)
	i := l.create("image", mib)
	l.write(i.ID, 0, mib/2, 1)
	s := l.snap(i.ID, "s")
	ofSnapshot, err := l.st.Publish(l.ctx, s.ID, "a", store.AccessRead)
	l.must(err)
	ofImage, err := l.st.Publish(l.ctx, i.ID, "b", store.AccessRead)
	l.must(err)
	l.unflushed(i.ID)
	l.powerCut(nil)
	l.start()
	l.keeps(ofSnapshot, "after a power cut")
	l.keeps(ofImage, "after a power cut")
}

// A shrink left over from before the power cut clears its head as soon as it may, and
// with that every trace of the loss. A crash at any moment of that start must not hide
// that the image lost writes.
func TestLossIsNoticedBeforeWorkGoesOn(t *testing.T) {
	for change := range int64(12) {
		l := newLab(t, nil)
		i, p := l.published("image")
		l.unflushed(i.ID)
		l.fail(vfs.OnPath("*.map", vfs.OnKind(vfs.OpWrite, vfs.Always(store.ErrBusy))))
		if _, err := l.st.Resize(l.ctx, i.ID, mib/4); err == nil {
			t.Fatal("the shrink met no fault")
		}
		l.powerCut(nil)
		l.fail(vfs.OnPath("0*.*", vfs.OnKind(vfs.OpWrite|vfs.OpSync, vfs.AtIndex(change, vfs.ErrCrashed))))
		_ = l.tryStart() // it may not come far enough
		l.crash()
		l.fail(nil)
		l.start()
		l.retired(p, fmt.Sprintf("after a crash at change %d of the start", change))
		l.idle()
	}
}

// An image that nobody writes to is marked clean and outlives a power failure with its
// publication, open or not; the next write takes the mark away before it is answered.
func TestIdleImageOutlivesAPowerFailure(t *testing.T) {
	for _, again := range []bool{false, true} {
		l := newLab(t, nil)
		i, pub := l.published("idle")
		l.unflushed(i.ID)
		l.st.MarkIdle() // sees that it was written to
		l.st.MarkIdle()
		if again {
			l.unflushed(i.ID)
		}
		l.powerCut(nil)
		l.start()
		if again {
			l.retired(pub, "written to again")
			continue
		}
		l.keeps(pub, "idle")
		if got := l.read(i.ID, 4096, 8192); string(got) != string(pattern(8192, 2)) {
			t.Error("what was written before it was idle is lost")
		}
	}
}

// A head that cannot be opened at the start, for a reason that passes, is refused until
// it can, and its publication retired then: nothing written meanwhile may hide what the
// machine lost.
func TestLostPageCacheIsFoundOutLate(t *testing.T) {
	l := newLab(t, nil)
	var dirty store.Info
	var pub store.Publication
	head := l.made(func() { dirty, pub = l.published("dirty") })
	clean, kept := l.published("clean")
	l.unflushed(dirty.ID)
	l.powerCut(nil)
	l.fail(vfs.OnPath(head[0]+".*", vfs.OnKind(vfs.OpOpen, vfs.Always(errMedium))))
	l.start()
	refused := func(what string) {
		t.Helper()
		_, err := l.st.Open(l.ctx, dirty.ID)
		l.failed(err, store.ErrUnavailable, what)
		_, err = l.st.Snapshot(l.ctx, dirty.ID, "s")
		l.failed(err, store.ErrUnavailable)
		_, err = l.st.Publish(l.ctx, dirty.ID, pub.Node, store.AccessWrite)
		l.failed(err, store.ErrUnavailable)
	}
	refused("cannot be opened")
	l.keeps(pub, "while nothing is known")
	l.read(clean.ID, 0, mib)
	l.keeps(kept, "of another image")
	l.crash()
	l.start()
	refused("cannot be opened")
	l.fail(nil)
	_, err := l.st.Open(l.ctx, dirty.ID) // it may be that of the publication
	l.failed(err, store.ErrUnavailable, "mounted again")
	l.retired(pub, "once it is known")
	l.write(dirty.ID, 0, 4096, 3)
	l.clean()
}

// The same of an image that has lost nothing.
func TestNothingLostIsFoundOutLate(t *testing.T) {
	l := newLab(t, nil)
	var i store.Info
	var pub store.Publication
	head := l.made(func() { i, pub = l.published("image") })
	l.restart()
	l.powerCut(nil)
	l.fail(vfs.OnPath(head[0]+".*", vfs.OnKind(vfs.OpOpen, vfs.Always(errMedium))))
	l.start()
	_, err := l.st.Open(l.ctx, i.ID)
	l.failed(err, store.ErrUnavailable)
	l.fail(nil)
	l.write(i.ID, 0, 4096, 3)
	l.keeps(pub, "of an image that lost nothing")
}

// A shrink that a crash cut short waits until it is known what the image lost.
func TestShrinkWaitsForWhatIsOwed(t *testing.T) {
	l := newLab(t, nil)
	var i store.Info
	var pub store.Publication
	head := l.made(func() { i, pub = l.published("image") })
	l.unflushed(i.ID)
	l.fail(vfs.OnPath(head[0]+".data", vfs.OnKind(vfs.OpPunch, vfs.Always(vfs.ErrCrashed))))
	if _, err := l.st.Resize(l.ctx, i.ID, 4096); err == nil {
		t.Fatal("the shrink was not cut short")
	}
	l.powerCut(nil)
	l.fail(vfs.Once(vfs.OnPath(head[0]+".map", vfs.OnKind(vfs.OpOpen, vfs.Always(errMedium)))))
	l.start()
	l.fail(nil)
	l.crash() // and with it all that this process knew
	l.start()
	l.retired(pub, "once it is known")
	if _, err := l.st.Resize(l.ctx, i.ID, mib); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, mib)
	copy(want, l.read(i.ID, 0, 4096))
	l.want(i.ID, "the image, shrunk and grown", want)
	l.clean()
}
