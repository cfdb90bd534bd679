package layered_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

var errMedium = errors.New("medium error")

// poisoned is an image whose sync failed, among a snapshot and a clone from before,
// and a stranger.
type poisoned struct {
	*lab
	image, snapshot, clone, other store.Info
	frozen, shown                 []byte
}

// failSyncs makes every sync of one layer's files fail.
func failSyncs(layer string) vfs.Injector {
	return vfs.OnPath(layer+".*", vfs.OnKind(vfs.OpSync, vfs.Always(errMedium)))
}

// newPoisoned poisons an image by what trigger does with it while its syncs fail.
// trigger has written shown's last block, unflushed, before.
func newPoisoned(t *testing.T, trigger func(p *poisoned, dev store.Device)) *poisoned {
	l := newLab(t, nil)
	p := &poisoned{lab: l, image: l.create("image", mib), other: l.create("other", mib)}
	l.write(p.image.ID, 0, mib/2, 1)
	l.write(p.other.ID, 0, mib, 2)
	p.frozen = append(pattern(mib/2, 1), make([]byte, mib/2)...)
	head := l.made(func() { p.snapshot = l.snap(p.image.ID, "before") })
	p.clone = l.clone(p.snapshot.ID, "clone")
	dev, err := l.st.Open(l.ctx, p.image.ID)
	l.must(err)
	_, err = dev.WriteAt(pattern(4096, 3), 8192)
	l.must(err)
	l.must(dev.Flush())
	p.shown = append([]byte(nil), p.frozen...)
	copy(p.shown[8192:], pattern(4096, 3))
	_, err = dev.WriteAt(pattern(4096, 4), 16384)
	l.must(err)
	l.fail(failSyncs(head[0]))
	trigger(p, dev)
	l.fail(nil)
	return p
}

// readOnly requires that the image is read-only for its reason, and nothing more.
func (p *poisoned) readOnly(when string) {
	p.Helper()
	now := p.stat(p.image.ID)
	if now.State != store.StateReadOnly || !containsAll(now.Reason, "sync", errMedium.Error()) {
		p.Errorf("%s the image is %q: %s", when, now.State, now.Reason)
	}
	dev, err := p.st.Open(p.ctx, p.image.ID)
	p.must(err)
	_, err = dev.WriteAt(make([]byte, 512), 0)
	p.failed(err, store.ErrReadOnly, "image", errMedium.Error())
	p.failed(dev.Discard(0, mib), store.ErrReadOnly, "image")
	p.failed(dev.Zero(0, mib, false), store.ErrReadOnly, "image")
	p.must(dev.Close())
	_, err = p.st.Snapshot(p.ctx, p.image.ID, "after")
	p.failed(err, store.ErrReadOnly, errMedium.Error())
	_, err = p.st.Create(p.ctx, store.Spec{Name: "no", Parent: p.image.ID})
	p.failed(err, store.ErrReadOnly, "image")
	if s := p.status(); s.Images != 3 || s.Snapshots != 1 || len(s.Faulty) != 0 {
		p.Errorf("%s the store has %d images, %d snapshots, faulty %v", when, s.Images, s.Snapshots, s.Faulty)
	}
	// What was flushed is there; what was not may be.
	got := p.read(p.image.ID, 0, mib)
	copy(got[16384:16384+4096], p.shown[16384:])
	if string(got) != string(p.shown) {
		p.Errorf("%s the image does not show what was flushed", when)
	}
}

// othersWork requires that snapshot, clone and stranger are as usable as ever.
func (p *poisoned) othersWork(round uint64) {
	p.Helper()
	p.want(p.snapshot.ID, "the snapshot from before", p.frozen)
	clone := p.read(p.clone.ID, 0, mib)
	p.write(p.clone.ID, 4096, 4096, round)
	copy(clone[4096:], pattern(4096, round))
	p.want(p.clone.ID, "the clone from before", clone)
	p.want(p.other.ID, "the stranger", pattern(mib, 2))
	p.remove(p.snap(p.other.ID, "s").ID)
	late := p.rig.clone(p.snapshot.ID, fmt.Sprintf("late%d", round))
	p.want(late.ID, "a clone of the snapshot", p.frozen)
	p.remove(late.ID)
	p.idle()
}

// reverts requires that a revert makes the image writable again.
func (p *poisoned) reverts() {
	p.Helper()
	p.must(p.st.Revert(p.ctx, p.image.ID, p.snapshot.ID))
	if now := p.stat(p.image.ID); now.State != store.StateReady {
		p.Errorf("after the revert the image is %q: %s", now.State, now.Reason)
	}
	p.want(p.image.ID, "the reverted image", p.frozen)
	p.write(p.image.ID, 4096, 4096, 9)
	p.snap(p.image.ID, "again")
	p.clean()
	p.restart()
	copy(p.frozen[4096:], pattern(4096, 9))
	p.want(p.image.ID, "the reverted image after a restart", p.frozen)
	p.clean()
}

// triggers are the moments at which a sync can fail.
var triggers = map[string]func(p *poisoned, dev store.Device){
	"flush": func(p *poisoned, dev store.Device) {
		p.failed(dev.Flush(), store.ErrReadOnly, "image", errMedium.Error())
		p.fail(nil) // the disk is well again: no later sync may hide it
		p.failed(dev.Flush(), store.ErrReadOnly, "image")
		p.must(dev.Close())
	},
	"snapshot": func(p *poisoned, dev store.Device) {
		_, err := p.st.Snapshot(p.ctx, p.image.ID, "after")
		p.failed(err, store.ErrReadOnly, errMedium.Error())
		p.must(dev.Close())
	},
	"clone": func(p *poisoned, dev store.Device) {
		_, err := p.st.Create(p.ctx, store.Spec{Name: "no", Parent: p.image.ID})
		p.failed(err, store.ErrReadOnly, errMedium.Error())
		p.must(dev.Close())
	},
	"close of the last device": func(p *poisoned, dev store.Device) { p.must(dev.Close()) },
	"close of the store": func(p *poisoned, _ store.Device) {
		st := p.st
		if err := st.Close(); !errors.Is(err, store.ErrReadOnly) {
			p.Errorf("closing the store answers %v", err)
		}
		p.fail(nil)
		p.start()
	},
}

func TestFailedSync(t *testing.T) {
	for when, trigger := range triggers {
		t.Run(when, func(t *testing.T) {
			p := newPoisoned(t, trigger)
			p.readOnly("after a failed sync at " + when)
			p.othersWork(10)
			p.restart()
			p.readOnly("after a restart")
			p.othersWork(11)
			p.crash()
			p.start()
			p.readOnly("after a crash")
			p.powerCut(nil)
			p.start()
			p.readOnly("after a power cut")
			p.othersWork(12)
			p.reverts()
		})
	}
}

// A poisoned image can be removed and leaves nothing.
func TestPoisonedImageGoes(t *testing.T) {
	p := newPoisoned(t, triggers["flush"])
	p.remove(p.image.ID)
	p.othersWork(10)
	p.remove(p.snapshot.ID)
	p.remove(p.clone.ID)
	p.clean()
	if left := p.layerNames(); len(left) != 1 && len(left) != 2 { // the stranger's, and a spare one
		t.Errorf("left: %v", left)
	}
}

// The publication of a poisoned image ends with the process: what its client believes
// written may be gone.
func TestPoisonRetiresThePublication(t *testing.T) {
	p := newPoisoned(t, triggers["flush"])
	old, err := p.st.Publish(p.ctx, p.image.ID, "node", store.AccessWrite)
	p.must(err)
	p.crash()
	p.start()
	pubs, err := p.st.Publications(p.ctx, p.image.ID)
	p.must(err)
	if len(pubs) != 0 {
		t.Errorf("the publication of a poisoned image is still %+v", pubs)
	}
	now, err := p.st.Publish(p.ctx, p.image.ID, "node", store.AccessWrite)
	p.must(err)
	if now.Epoch <= old.Epoch {
		t.Errorf("epoch %d follows %d", now.Epoch, old.Epoch)
	}
}

// A failed sync of background work harms no image: the inherited data is still below.
func TestFailedSyncOfFlatten(t *testing.T) {
	l := newLab(t, nil)
	parent := l.create("parent", mib)
	l.write(parent.ID, 0, mib, 1)
	s := l.snap(parent.ID, "s")
	root := l.made(func() { l.clone(s.ID, "clone") })
	c, err := l.st.Lookup(l.ctx, "clone")
	l.must(err)
	l.write(c.ID, 0, 4096, 2)
	want := pattern(mib, 1)
	copy(want, pattern(4096, 2))
	l.snap(c.ID, "sealed")
	l.idle()
	l.fail(failSyncs(root[0]))
	if err := l.st.Flatten(l.ctx, c.ID); err == nil {
		t.Error("the flatten noticed no failed sync")
	}
	l.fail(nil)
	for _, again := range []func(){func() {}, l.restart, func() { l.powerCut(nil); l.start() }} {
		again()
		if now := l.stat(c.ID); now.State != store.StateReady && now.State != store.StateFlattening {
			t.Errorf("the image is %q: %s", now.State, now.Reason)
		}
		l.want(c.ID, "the image", want)
		l.write(c.ID, 8192, 4096, 3)
		copy(want[8192:], pattern(4096, 3))
		l.want(c.ID, "the image", want)
	}
}
