package layered_test

import (
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// What a merge moves counts all the while: before, held up half-way, given up, and done.
func TestUsageDuringAMerge(t *testing.T) {
	for name, size := range map[string][2]int64{"fill": {12 * mib, 40 * mib}, "push": {40 * mib, 12 * mib}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(o *layered.Options) { o.Workers = 2 })
			image := l.create("image", 128*mib)
			l.write(image.ID, 0, size[0], 1)
			first := l.snap(image.ID, "first")
			l.write(image.ID, 64*mib, size[1], 2)
			second := l.snap(image.ID, "second")
			l.idle()
			total := size[0] + size[1]
			about := func(when string, over int64) {
				t.Helper()
				for _, id := range []store.ID{image.ID, second.ID} {
					u, err := l.st.Usage(l.ctx, id)
					l.must(err)
					if sum := u.Own + u.Shared; sum < total || sum > total+over {
						t.Errorf("%s it uses %d MiB, want %d", when, sum/mib, total/mib)
					}
				}
			}
			about("before the merge", 0)
			punched := make(chan struct{}, 1)
			l.fail(vfs.OnKind(vfs.OpPunch, func(vfs.Op) error { // a batch is in the target, then the next fails
				select {
				case punched <- struct{}{}:
				default:
				}
				return errMedium
			}))
			l.remove(first.ID)
			select {
			case <-punched:
			case <-l.ctx.Done():
				t.Fatal("the merge moves nothing")
			}
			about("half-way", 16*mib)
			l.crash()
			l.start()
			about("after a crash", 16*mib)
			l.fail(nil)
			l.idle()
			about("merged", 0)
			l.clean()
		})
	}
}
