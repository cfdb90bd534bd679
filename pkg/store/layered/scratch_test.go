package layered_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
)

// scratchOf publishes a private head of an image with half a MiB of data, and of its
// snapshot.
func (l *lab) scratchOf(name string) (ofImage, ofSnapshot store.Publication) {
	l.Helper()
	i := l.create(name, mib)
	l.write(i.ID, 0, mib/2, 1)
	s, err := l.st.Snapshot(l.ctx, i.ID, "s")
	l.must(err)
	ofImage, err = l.st.Publish(l.ctx, i.ID, "node-"+name, store.AccessScratch)
	l.must(err)
	ofSnapshot, err = l.st.Publish(l.ctx, s.ID, "node-"+name, store.AccessScratch)
	l.must(err)
	return ofImage, ofSnapshot
}

// A power failure retires the publications whose private heads may have lost answered
// writes, with their heads; what is published stays as it is.
func TestLostPageCacheRetiresPrivateHeads(t *testing.T) {
	for _, seed := range []uint64{0, 1, 2, 3} {
		l := newLab(t, nil)
		dirty, clean := l.scratchOf("img")
		l.unflushed(dirty.Target)
		var rng *rand.Rand
		if seed > 0 {
			rng = rand.New(rand.NewPCG(seed, 0))
		}
		l.powerCut(rng)
		l.start()
		when := fmt.Sprintf("after power cut %d", seed)
		l.keeps(clean, when)
		list, err := l.st.Publications(l.ctx, dirty.ID)
		l.must(err)
		if len(list) != 0 {
			t.Errorf("%s the publication is still %+v", when, list)
		}
		if _, err := l.st.Stat(l.ctx, dirty.Target); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s the private head is still there: %v", when, err)
		}
		l.want(dirty.ID, "the image", append(pattern(mib/2, 1), make([]byte, mib/2)...))
		l.clean()
		next, err := l.st.Publish(l.ctx, dirty.ID, dirty.Node, store.AccessScratch)
		l.must(err)
		if next.Target == dirty.Target || next.Epoch <= dirty.Epoch {
			t.Errorf("%s %+v follows %+v", when, next, dirty)
		}
		l.stop()
	}
}

// Stable answers are not lost, so the publication lives on.
func TestStableAckKeepsPrivateHeads(t *testing.T) {
	l := newLab(t, func(o *layered.Options) { o.StableAck = true })
	p, _ := l.scratchOf("img")
	l.unflushed(p.Target)
	l.powerCut(nil)
	l.start()
	l.keeps(p, "after a power cut")
	want := append(pattern(mib/2, 1), make([]byte, mib/2)...)
	copy(want[4096:], pattern(8192, 2))
	l.want(p.Target, "the private head", want)
	l.clean()
}

// A store that is low on space gives no new private head, but the ones there are.
func TestPrivateHeadsWantSpace(t *testing.T) {
	l := newLab(t, nil)
	p, of := l.scratchOf("img")
	l.stop()
	l.tune = func(o *layered.Options) { o.Reserve = 1 << 60 }
	l.start()
	_, err := l.st.Publish(l.ctx, p.ID, "another", store.AccessScratch)
	l.failed(err, store.ErrNoSpace)
	again, err := l.st.Publish(l.ctx, of.ID, of.Node, store.AccessScratch)
	l.must(err)
	if again != of {
		t.Errorf("published again: %+v, want %+v", again, of)
	}
}

// A commit that fails leaves neither publication nor head, and one that was not
// withdrawn goes on serving.
func TestPrivateHeadsAndFailingCommits(t *testing.T) {
	l := newLab(t, nil)
	p, of := l.scratchOf("img")
	var failing atomic.Bool
	l.stop()
	l.tune = func(o *layered.Options) {
		o.BeforeCommit = func() error {
			if failing.Load() {
				return errCommit
			}
			return nil
		}
	}
	l.start()
	dev, err := l.st.Open(l.ctx, p.Target)
	l.must(err)
	before := l.layerNames()
	failing.Store(true)
	_, err = l.st.Publish(l.ctx, of.ID, "another", store.AccessScratch)
	l.failed(err, errCommit)
	l.failed(l.st.Unpublish(l.ctx, p.ID, ""), errCommit)
	failing.Store(false)
	if after := l.layerNames(); len(after) != len(before) {
		t.Errorf("there are layers %v, before there were %v", after, before)
	}
	_, err = dev.WriteAt(pattern(8192, 3), 0)
	l.must(err)
	l.keeps(p, "after a failed withdrawal")
	l.must(l.st.Unpublish(l.ctx, p.ID, ""))
	l.must(dev.Close())
	l.clean()
}

var errCommit = errors.New("no commit today")

// Private heads come and go while others are made, written and read.
func TestPrivateHeadsAtOnce(t *testing.T) {
	l := newLab(t, nil)
	i := l.create("img", mib)
	l.write(i.ID, 0, mib/2, 1)
	s, err := l.st.Snapshot(l.ctx, i.ID, "s")
	l.must(err)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for n := range errs {
		wg.Go(func() { errs[n] = l.comeAndGo(s.ID, fmt.Sprint("node-", n), byte(n+2)) })
	}
	wg.Wait()
	l.must(errors.Join(errs...))
	l.want(s.ID, "the snapshot", append(pattern(mib/2, 1), make([]byte, mib/2)...))
	l.clean()
	if status, err := l.st.Status(l.ctx); err != nil || status.Layers != 2 {
		t.Errorf("%d layers are left, %v, want that of the snapshot and the head", status.Layers, err)
	}
}

func (l *lab) comeAndGo(id store.ID, node string, seed byte) error {
	for range 10 {
		p, err := l.st.Publish(l.ctx, id, node, store.AccessScratch)
		if err != nil {
			return err
		}
		dev, err := l.st.Open(l.ctx, p.Target)
		if err != nil {
			return err
		}
		want, got := pattern(64<<10, uint64(seed)), make([]byte, 64<<10)
		if _, err := dev.WriteAt(want, 12345); err != nil {
			return err
		}
		if _, err := dev.ReadAt(got, 12345); err != nil || string(got) != string(want) {
			return fmt.Errorf("%s reads something else (%w)", node, err)
		}
		if err := errors.Join(l.st.Unpublish(l.ctx, id, node), dev.Close()); err != nil {
			return err
		}
	}
	return nil
}
