package layered_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// stably makes the next start answer writes stably, or not.
func (l *lab) stably(on bool) { l.tune = func(o *layered.Options) { o.StableAck = on } }

func newStableLab(t *testing.T) *lab {
	return newLab(t, func(o *layered.Options) { o.StableAck = true })
}

// scribble writes, zeroes and discards at random from several goroutines, each in its
// own part, flushes nothing and answers what the image must show.
func (l *lab) scribble(id store.ID, seed uint64, shows []byte) []byte {
	l.Helper()
	const workers = 4
	want := bytes.Clone(shows)
	dev, err := l.st.Open(l.ctx, id)
	l.must(err)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			part := len(want) / workers
			for i := range 20 {
				at := w*part + rng.IntN(part/4096-4)*4096
				n := (1 + rng.IntN(4)) * 4096
				var err error
				switch p := want[at : at+n]; rng.IntN(5) {
				case 0:
					clear(p)
					err = dev.Zero(int64(at), int64(n), rng.IntN(2) == 0)
				case 1:
					clear(p)
					err = dev.Discard(int64(at), int64(n))
				default:
					p, at = p[100:n-rng.IntN(3000)], at+100
					copy(p, pattern(int64(len(p)), uint64(i+w)))
					_, err = dev.WriteAt(p, int64(at))
				}
				if err != nil {
					l.Error(err)
				}
			}
		})
	}
	all.Wait()
	return want
}

// Everything answered is there after a power cut, without a flush, and the
// publication of the client that believes in it goes on, again and again.
func TestStableAckSurvivesPowerCut(t *testing.T) {
	for seed := range uint64(8) {
		l := newStableLab(t)
		i, p := l.published("image")
		want := append(pattern(mib/2, 1), make([]byte, mib/2)...)
		for round := range uint64(3) {
			want = l.scribble(i.ID, seed*10+round, want)
			if round == 1 {
				l.snap(i.ID, "s")
				want = l.scribble(i.ID, seed*10+round, want)
			}
			var rng *rand.Rand
			if seed > 0 {
				rng = rand.New(rand.NewPCG(seed, round))
			}
			l.powerCut(rng)
			l.start()
			when := fmt.Sprintf("after power cut %d of seed %d", round, seed)
			l.keeps(p, when)
			l.want(i.ID, "the image "+when, want)
		}
		l.clean()
	}
}

// The option of the life that follows a power cut says nothing of the one before it.
func TestStableAckIsOfTheLifeThatAnswered(t *testing.T) {
	l := newLab(t, nil)
	i, p := l.published("image")
	l.unflushed(i.ID)
	l.powerCut(nil)
	l.stably(true)
	l.start()
	l.retired(p, "after a buffered life")

	p = l.publication(i.ID) // retired published it anew
	want := l.scribble(i.ID, 1, l.read(i.ID, 0, mib))
	l.powerCut(nil)
	l.stably(false)
	l.start()
	l.keeps(p, "after a stable life")
	l.want(i.ID, "the image", want)
	l.crash()
	l.start()
	l.powerCut(nil)
	l.start()
	l.keeps(p, "after a buffered life without a write")
	l.unflushed(i.ID)
	l.powerCut(nil)
	l.start()
	l.retired(p, "after a buffered life that followed a stable one")
}

func (l *lab) publication(id store.ID) store.Publication {
	l.Helper()
	list, err := l.st.Publications(l.ctx, id)
	l.must(err)
	if len(list) != 1 {
		l.Fatalf("publications are %+v, want one", list)
	}
	return list[0]
}

// A stable life takes over what a buffered one left in the page cache, whether the
// image was published then or is only later.
func TestStableAckMakesEarlierWritesDurable(t *testing.T) {
	l := newLab(t, nil)
	early, kept := l.published("early")
	late := l.create("late", mib)
	l.unflushed(early.ID)
	l.unflushed(late.ID)
	l.crash()
	l.stably(true)
	l.start()
	_, err := l.st.Open(l.ctx, late.ID) // so that no close makes it durable
	l.must(err)
	p, err := l.st.Publish(l.ctx, late.ID, "node-late", store.AccessWrite)
	l.must(err)
	l.powerCut(nil)
	l.start()
	for id, p := range map[store.ID]store.Publication{early.ID: kept, late.ID: p} {
		l.keeps(p, "after a power cut")
		if got := l.read(id, 4096, 8192); !bytes.Equal(got, pattern(8192, 2)) {
			t.Errorf("%s lost what was written before its publication", id)
		}
	}
}

// Where the earlier writes cannot be made durable, nothing is trusted.
func TestStableAckDoesNotTrustWhatItCouldNotSync(t *testing.T) {
	l := newLab(t, nil)
	i, p := l.published("image")
	l.unflushed(i.ID)
	l.crash()
	l.stably(true)
	l.fail(vfs.OnPath("*.data", vfs.OnKind(vfs.OpOpen, vfs.Always(store.ErrBusy))))
	l.start()
	l.fail(nil)
	if !l.noted(string(i.ID), "could not be made durable") {
		t.Error("no event tells of it")
	}
	l.powerCut(nil)
	l.start()
	l.retired(p, "after a power cut")
}

// A crash at any change of a start that turns the option on or off must leave neither
// trust in unflushed writes nor doubt in stable ones.
func TestStableAckTurnsAtomically(t *testing.T) {
	for change := range int64(8) {
		for _, stable := range []bool{false, true} {
			l := newLab(t, func(o *layered.Options) { o.StableAck = stable })
			i, p := l.published("image")
			l.unflushed(i.ID)
			l.powerCut(nil)
			l.stably(!stable)
			l.crashAt(change)
			_ = l.tryStart() // it may not come far enough
			l.crash()
			l.fail(nil)
			l.mem = l.mem.PowerCut(nil)
			l.start()
			when := fmt.Sprintf("stable %v, crash at change %d", stable, change)
			if stable {
				l.keeps(p, when)
			} else {
				l.retired(p, when)
			}
		}
	}
}

// While one sync runs, all that is written waits for the next one together.
func TestStableAckSharesSyncs(t *testing.T) {
	const writers = 64
	l := newStableLab(t)
	i := l.create("image", mib)
	l.write(i.ID, 0, mib, 1)
	dev, err := l.st.Open(l.ctx, i.ID)
	l.must(err)
	var syncs, writes atomic.Int64
	written := make(chan struct{})
	l.fail(vfs.OnPath("*.data", func(op vfs.Op) error {
		switch op.Kind {
		case vfs.OpWrite:
			if writes.Add(1) == writers {
				close(written)
			}
		case vfs.OpSync:
			if syncs.Add(1) == 1 {
				<-written
			}
		}
		return nil
	}))
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			if _, err := dev.WriteAt(pattern(4096, uint64(w)), int64(w)*4096); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l.fail(nil)
	l.must(dev.Close())
	if n := syncs.Load(); n < 2 || n > writers/2 {
		t.Errorf("%d writes took %d syncs", writers, n)
	}
}
