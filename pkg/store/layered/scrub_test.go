package layered_test

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// scrub runs a scrub to its end.
func (l *lab) scrub() error {
	l.Helper()
	j, err := l.st.StartScrub(l.ctx)
	l.must(err)
	return l.st.WatchJob(l.ctx, j.ID, func(store.Job) error { return nil })
}

// rot flips a bit of a layer's data behind the store's back.
func (l *lab) rot(layer string, off int64) {
	l.Helper()
	l.edit(layer+".data", func(f vfs.File) error {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		b[0] ^= 0x10
		_, err := f.WriteAt(b, off)
		return err
	})
}

// scrubbed is a store with an image of two sealed layers, a clone and a head.
func scrubbed(t *testing.T, tune func(*layered.Options)) (l *lab, image, first, clone store.Info, layers []string) {
	l = newLab(t, tune)
	bottom := l.made(func() { image = l.create("image", 16*mib) })
	l.write(image.ID, 0, 6*mib, 1)
	middle := l.made(func() { first = l.snap(image.ID, "first") })
	l.write(image.ID, 5*mib, 2*mib, 2)
	head := l.made(func() { l.snap(image.ID, "second") })
	l.write(image.ID, 10*mib, mib, 3)
	clone = l.clone(first.ID, "clone")
	l.idle()
	return l, image, first, clone, []string{bottom[0], middle[0], head[0]}
}

func (l *lab) hasSums(layer string) bool {
	names, err := l.mem.List("layers")
	l.must(err)
	return strings.Contains(strings.Join(names, " ")+" ", layer+".sums ")
}

// awaitSums waits until a layer has its checksums.
func (l *lab) awaitSums(layer string) {
	l.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !l.hasSums(layer) {
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.Fatal("no checksums")
		}
	}
}

// A scrub of a sound store finds nothing and leaves checksums of sealed layers.
func TestScrub(t *testing.T) {
	l, _, _, _, layers := scrubbed(t, nil)
	l.must(l.scrub())
	for i, want := range []bool{true, true, false} {
		if l.hasSums(layers[i]) != want {
			t.Errorf("layer %d has checksums: %v", i, !want)
		}
	}
	l.must(l.scrub())
	l.clean()
	if f := l.status().Faulty; len(f) != 0 {
		t.Errorf("found %+v", f)
	}
	if jobs, _ := l.st.Jobs(l.ctx); len(jobs) != 0 {
		t.Errorf("left %+v", jobs)
	}
}

// A bit that flips after the checksums were computed is found, by scrub and check, told
// until a scrub has seen it right again, and kept from nobody's reads.
func TestScrubFindsRot(t *testing.T) {
	l, image, _, clone, layers := scrubbed(t, nil)
	l.must(l.scrub())
	l.rot(layers[0], 3*mib+100)
	err := l.scrub()
	l.failed(err, store.ErrCorrupt, "1 problems", "image", "3145728", "checksum")
	told := func(when string) {
		t.Helper()
		f := l.status().Faulty
		if len(f) != 1 || !containsAll(f[0].Object+f[0].Text, `"image"`, "3145728") || f[0].Harmless {
			t.Errorf("%s the status tells %+v", when, f)
		}
	}
	told("after the scrub")
	found, err := l.st.Check(l.ctx, true)
	l.must(err)
	if len(found) != 1 || !strings.Contains(found[0].Text, "3145728") {
		t.Errorf("check finds %+v", found)
	}
	l.restart()
	told("after a restart")
	l.crash()
	l.start()
	told("after a crash")
	l.read(image.ID, 3*mib, 4*kib)
	if s := l.stat(clone.ID).State; s != store.StateReady {
		t.Errorf("the clone is %q", s)
	}
	l.failed(l.scrub(), store.ErrCorrupt, "3145728") // not taken for right the second time
	told("after another scrub")
	l.rot(layers[0], 3*mib+100)
	l.must(l.scrub())
	if f := l.status().Faulty; len(f) != 0 {
		t.Errorf("with the block right again, the status tells %+v", f)
	}
	l.clean()
}

// What cannot be read is found as well.
func TestScrubFindsWhatCannotBeRead(t *testing.T) {
	l, _, _, _, layers := scrubbed(t, nil)
	l.fail(vfs.OnPath(layers[1]+".data", vfs.OnKind(vfs.OpRead, vfs.Always(errMedium))))
	l.failed(l.scrub(), store.ErrCorrupt, errMedium.Error())
	l.fail(nil)
	l.must(l.scrub())
	l.clean()
}

// The maps of heads are looked at.
func TestScrubLooksAtHeads(t *testing.T) {
	l, _, _, _, layers := scrubbed(t, nil)
	l.restart() // so that the map is on the disk
	l.edit(layers[2]+".map", func(f vfs.File) error {
		size, err := f.Size()
		if err == nil {
			_, err = f.WriteAt([]byte("damage"), size-100)
		}
		return err
	})
	l.failed(l.scrub(), store.ErrCorrupt, "image")
}

// A file of checksums that is damaged, cut off or of another layer is written anew.
func TestScrubRenewsDamagedChecksums(t *testing.T) {
	for name, damage := range map[string]func(f vfs.File) error{
		"header": func(f vfs.File) error { _, err := f.WriteAt([]byte("x"), 3); return err },
		"record": func(f vfs.File) error { _, err := f.WriteAt([]byte("x"), 200); return err },
		"second": func(f vfs.File) error { _, err := f.WriteAt([]byte("x"), 24+144+4096+300); return err },
		"end":    func(f vfs.File) error { n, err := f.Size(); return errors.Join(err, f.Truncate(n-5)) },
		"empty":  func(f vfs.File) error { return f.Truncate(0) },
	} {
		t.Run(name, func(t *testing.T) {
			l, _, _, _, layers := scrubbed(t, nil)
			l.must(l.scrub())
			l.edit(layers[0]+".sums", damage)
			l.must(l.scrub()) // it costs nobody anything
			if f := l.status().Faulty; len(f) != 1 || !f[0].Harmless {
				t.Errorf("the status tells %+v", f)
			}
			l.must(l.scrub())
			if f := l.status().Faulty; len(f) != 0 {
				t.Errorf("written anew, the status tells %+v", f)
			}
			l.rot(layers[0], 5*mib)
			l.failed(l.scrub(), store.ErrCorrupt)
		})
	}
}

// Merges and flattens beside checksums: nothing is found that is not wrong.
func TestScrubAfterMergeAndFlatten(t *testing.T) {
	l, image, first, clone, layers := scrubbed(t, nil)
	want := l.read(image.ID, 0, 16*mib)
	l.must(l.scrub())
	l.must(l.st.Flatten(l.ctx, clone.ID))
	l.remove(clone.ID)
	l.remove(first.ID)
	l.idle()
	if l.hasSums(layers[0]) || l.hasSums(layers[1]) {
		t.Error("the layers that were merged still have their checksums")
	}
	l.must(l.scrub())
	l.must(l.scrub())
	l.want(image.ID, "the image", want)
	l.clean()
}

// A merge that forgets checksums while they are read is no finding.
func TestForgottenWhileTheyAreRead(t *testing.T) {
	l, _, _, _, layers := scrubbed(t, nil)
	l.must(l.scrub())
	id, err := strconv.ParseUint(layers[0], 16, 64)
	l.must(err)
	var once sync.Once
	l.fail(func(op vfs.Op) (err error) {
		if op.Kind == vfs.OpRead && strings.HasSuffix(op.Path, layers[0]+".sums") {
			once.Do(func() { err = cmp.Or(l.st.ForgetSums(id), fs.ErrNotExist) })
		}
		return err
	})
	l.clean()
	if l.hasSums(layers[0]) {
		t.Error("they were not read")
	}
}

// A scrub that is paused, or dies with the process or the machine, goes on where it was.
func TestScrubGoesOn(t *testing.T) {
	for name, stop := range map[string]func(l *lab, job string){
		"pause":     func(l *lab, job string) { l.must(l.st.PauseJob(l.ctx, job)); l.must(l.st.ResumeJob(l.ctx, job)) },
		"restart":   func(l *lab, _ string) { l.restart() },
		"crash":     func(l *lab, _ string) { l.crash(); l.start() },
		"power cut": func(l *lab, _ string) { l.powerCut(nil); l.start() },
	} {
		t.Run(name, func(t *testing.T) {
			var slow atomic.Bool
			slow.Store(true)
			l, _, _, _, layers := scrubbed(t, func(o *layered.Options) {
				if slow.Load() {
					o.ScrubRate = 8 << 20
				}
			})
			l.must(l.scrub())
			l.rot(layers[0], 100)
			j, err := l.st.StartScrub(l.ctx)
			l.must(err)
			l.must(ignore(l.st.WatchJob(l.ctx, j.ID, func(now store.Job) error {
				if now.Done > 5*mib {
					return errMedium
				}
				return nil
			}), errMedium))
			slow.Store(false)
			stop(l, j.ID)
			err = l.st.WatchJob(l.ctx, j.ID, func(store.Job) error { return nil })
			l.failed(err, store.ErrCorrupt, "1 problems")
			if f := l.status().Faulty; len(f) != 1 {
				t.Errorf("the status tells %+v", f)
			}
		})
	}
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// One scrub at a time; cancelled, it leaves nothing behind.
func TestScrubIsOneJob(t *testing.T) {
	l, _, _, _, _ := scrubbed(t, func(o *layered.Options) { o.ScrubRate = 64 << 10 })
	a, err := l.st.StartScrub(l.ctx)
	l.must(err)
	b, err := l.st.StartScrub(l.ctx)
	l.must(err)
	if a.ID != b.ID || a.Kind != store.JobScrub || a.Total < 8*mib {
		t.Errorf("two scrubs: %+v and %+v", a, b)
	}
	l.must(l.st.CancelJob(l.ctx, a.ID))
	l.must(ignore(l.st.WatchJob(l.ctx, a.ID, func(store.Job) error { return nil }), store.ErrNotFound))
	l.clean()
}

// Flattens and merges do not wait for a scrub of their layers.
func TestScrubHoldsNobodyUp(t *testing.T) {
	l, image, first, clone, _ := scrubbed(t, func(o *layered.Options) { o.ScrubRate = 64 << 10 })
	want := l.read(image.ID, 0, 16*mib)
	j, err := l.st.StartScrub(l.ctx)
	l.must(err)
	ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
	defer cancel()
	l.must(l.st.Flatten(ctx, clone.ID))
	l.remove(first.ID)
	for {
		jobs, err := l.st.Jobs(l.ctx)
		l.must(err)
		if len(jobs) == 1 && jobs[0].ID == j.ID {
			break
		}
		for _, other := range jobs {
			if other.ID != j.ID {
				l.must(ignore(l.st.WatchJob(ctx, other.ID, func(store.Job) error { return nil }), store.ErrNotFound))
			}
		}
	}
	l.must(l.st.CancelJob(l.ctx, j.ID))
	l.want(image.ID, "the image", want)
	l.clean()
}

// A layer that was left alone gets its checksums, without a scrub.
func TestRestingLayersGetChecksums(t *testing.T) {
	l, _, _, _, layers := scrubbed(t, func(o *layered.Options) { o.SumAfter = 20 * time.Millisecond })
	l.awaitSums(layers[0])
	l.awaitSums(layers[1])
	l.idle()
	l.rot(layers[1], 5*mib)
	l.failed(l.scrub(), store.ErrCorrupt)
}

// Scrubs come by themselves where asked, and not more often.
func TestScrubEvery(t *testing.T) {
	var every time.Duration
	l, _, _, _, layers := scrubbed(t, func(o *layered.Options) { o.ScrubEvery = every })
	every = time.Hour
	l.restart()
	l.awaitSums(layers[0])
	l.idle()
	l.must(l.mem.Remove("layers/" + layers[0] + ".sums"))
	l.restart()
	every = 0
	l.restart() // the end of the life before waited for it to have looked
	l.idle()
	if l.hasSums(layers[0]) {
		t.Error("it came again at once")
	}
}
