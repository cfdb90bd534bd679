package layered_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// openFiles counts this process' descriptors below a directory.
func openFiles(t testing.TB, dir string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err == nil && strings.HasPrefix(to, filepath.Join(dir, "layers")) {
			n++
		}
	}
	return n
}

// An image with 2,000 own snapshots attaches, reads and merges within its limits.
func TestTwoThousandSnapshots(t *testing.T) {
	r := newRig(t)
	const size, blocks = 64 * mib, 64 * mib / 4096
	count := scaled(2000)
	i := r.create("v", size)
	want := make([]byte, size)
	snaps := make([]store.Info, count)
	var atHalf []byte
	head, err := r.st.Open(r.ctx, i.ID)
	r.must(err)
	for n := range count {
		off := int64(n*7919%blocks) * 4096
		_, err := head.WriteAt(pattern(4096, uint64(n)), off)
		r.must(err)
		copy(want[off:], pattern(4096, uint64(n)))
		if snaps[n] = r.snap(i.ID, fmt.Sprintf("s%d", n)); n == count/2 {
			atHalf = bytes.Clone(want)
		}
	}
	r.idle()
	r.must(head.Close())
	r.restart()

	dev := r.attachCold(i.ID)
	if got := r.read(i.ID, 0, size); !bytes.Equal(got, want) {
		t.Error("the image is not what was written")
	}
	if got := r.read(snaps[count/2].ID, 0, size); !bytes.Equal(got, atHalf) {
		t.Error("a snapshot in the middle is not what was written")
	}
	if fds := openFiles(t, r.dir); fds > 64 {
		t.Errorf("one image holds %d files open, want 64 at most", fds)
	}

	before := r.status().Copied
	for _, s := range snaps[:count/2] {
		r.remove(s.ID)
	}
	r.idle()
	_, err = dev.ReadAt(want[:1], 0)
	r.must(err)
	r.must(dev.Close())
	if got := r.read(i.ID, 4096, size-4096); !bytes.Equal(got, want[4096:]) {
		t.Error("after merging a thousand snapshots the image is not what was written")
	}
	if got := r.read(snaps[count/2].ID, 0, size); !bytes.Equal(got, atHalf) {
		t.Error("after merging a thousand snapshots the next one is not what it was")
	}
	s := r.status()
	if s.Layers > count/2+2 {
		t.Errorf("%d layers remain for %d snapshots", s.Layers, s.Snapshots)
	}
	t.Logf("removing half the snapshots copied %d bytes", s.Copied-before)
}

// attachCold opens an image of a store that has just been opened and reads its first
// block, and prints how long that took.
func (r *rig) attachCold(id store.ID) store.Device {
	r.Helper()
	began := time.Now()
	dev, err := r.st.Open(r.ctx, id)
	r.must(err)
	attach := time.Since(began)
	began = time.Now()
	_, err = dev.ReadAt(make([]byte, 4096), 0)
	r.must(err)
	r.Logf("attach %v, cold 4 KiB read %v, %d files open", attach, time.Since(began), openFiles(r, r.dir))
	return dev
}

// restart closes and opens the store.
func (r *rig) restart() {
	r.Helper()
	r.must(r.st.Close())
	r.st = reopen(r, r.dir)
}
