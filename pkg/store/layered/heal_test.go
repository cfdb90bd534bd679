package layered_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// failOne makes one sync of a layer's files fail, the k-th from now on.
func failOne(layer string, k int64) vfs.Injector {
	return vfs.OnPath(layer+".*", vfs.OnKind(vfs.OpSync, vfs.AtIndex(k, errMedium)))
}

// A sync that fails once during a flatten costs the flatten a second try, whichever it
// is and whatever happens to the store meanwhile.
func TestFlattenOutlivesAFailedSync(t *testing.T) {
	step := int64(1)
	if testing.Short() {
		step = 4
	}
	for name, between := range map[string]func(l *lab){
		"nothing":     func(*lab) {},
		"restart":     func(l *lab) { l.restart() },
		"crash":       func(l *lab) { l.crash(); l.start() },
		"power cut":   func(l *lab) { l.powerCut(nil); l.start() },
		"new program": func(l *lab) { l.idle() },
	} {
		t.Run(name, func(t *testing.T) {
			for k := int64(0); k < 12; k += step {
				if !flattenOverFailedSync(t, k, between) {
					if k < 3 {
						t.Errorf("a flatten has %d syncs", k)
					}
					return
				}
			}
		})
	}
}

// flattenOverFailedSync tells whether the k-th sync was reached.
func flattenOverFailedSync(t *testing.T, k int64, between func(l *lab)) bool {
	l := newLab(t, nil)
	parent := l.create("parent", 20*mib)
	l.write(parent.ID, 0, 20*mib, 1)
	s := l.snap(parent.ID, "s")
	var c store.Info
	root := l.made(func() { c = l.clone(s.ID, "clone") })
	l.write(c.ID, mib, 4096, 2)
	want := pattern(20*mib, 1)
	copy(want[mib:], pattern(4096, 2))
	l.snap(c.ID, "sealed")
	l.idle()
	var hit atomic.Bool
	one := failOne(root[0], k)
	l.fail(func(op vfs.Op) error {
		err := one(op)
		if err != nil {
			hit.Store(true)
		}
		return err
	})
	err := l.st.Flatten(l.ctx, c.ID)
	l.fail(nil)
	if !hit.Load() {
		return false
	}
	if err != nil {
		l.failed(err, store.ErrBusy, "copied again", errMedium.Error())
	}
	between(l)
	l.want(c.ID, "the image after the failed sync", want)
	l.must(l.st.Flatten(l.ctx, c.ID))
	l.idle()
	if now := l.stat(c.ID); now.Depth != 0 || now.State != store.StateReady {
		t.Errorf("after the flatten the image has depth %d and is %q: %s", now.Depth, now.State, now.Reason)
	}
	l.want(c.ID, "the flat image", want)
	l.clean()
	l.powerCut(nil)
	l.start()
	l.want(c.ID, "the flat image after a power cut", want)
	l.clean()
	return true
}

// The same for merges in both directions, which go on by themselves.
func TestMergeOutlivesAFailedSync(t *testing.T) {
	for name, size := range map[string][2]int64{"fill": {mib, 3 * mib}, "push": {3 * mib, mib}} {
		t.Run(name, func(t *testing.T) {
			for k := int64(0); k < 12; k++ {
				if !mergeOverFailedSync(t, k, size[0], size[1]) {
					if k < 2 {
						t.Errorf("a merge has %d syncs", k)
					}
					return
				}
			}
		})
	}
}

func mergeOverFailedSync(t *testing.T, k, lower, upper int64) bool {
	l := newLab(t, nil)
	var image, first store.Info
	low := l.made(func() { image = l.create("image", 8*mib) })
	l.write(image.ID, 0, lower, 1)
	up := l.made(func() { first = l.snap(image.ID, "first") })
	l.write(image.ID, mib/2, upper, 2)
	second := l.snap(image.ID, "second")
	want := make([]byte, 8*mib)
	copy(want, pattern(lower, 1))
	copy(want[mib/2:], pattern(upper, 2))
	l.idle()
	var hit atomic.Bool
	one := vfs.OnKind(vfs.OpSync, vfs.AtIndex(k, errMedium))
	l.fail(func(op vfs.Op) error {
		if !strings.Contains(op.Path, low[0]) && !strings.Contains(op.Path, up[0]) {
			return nil
		}
		err := one(op)
		if err != nil {
			hit.Store(true)
		}
		return err
	})
	l.remove(first.ID)
	l.want(second.ID, "the snapshot during the merge", want)
	l.idle()
	l.fail(nil)
	l.want(second.ID, "the merged snapshot", want)
	l.clean()
	l.powerCut(nil)
	l.start()
	l.want(second.ID, "the merged snapshot after a power cut", want)
	l.clean()
	return hit.Load()
}
