package storetest

import (
	"bytes"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// TestDeviceSubBlock: reads and writes of any offset and length touch exactly those bytes.
func (s *suite) TestDeviceSubBlock() {
	parent := s.create("parent", 8*blk)
	base := random(1, 8*blk)
	s.write(parent.ID, 0, base)
	for _, target := range []store.Info{s.create("fresh", 8*blk), s.clone("clone", parent.ID)} {
		want := make([]byte, 8*blk)
		if target.Depth > 0 {
			copy(want, base)
		}
		d := s.open(target.ID)
		for i, r := range [][2]int64{
			{0, 512}, {512, 512}, {blk - 512, 512}, {blk - 1, 2}, {1, 1}, {3*blk + 7, 2*blk - 3},
			{5 * blk, blk}, {6*blk + 511, 1}, {8*blk - 1, 1}, {2*blk + 100, 0}, {0, 8 * blk},
		} {
			p := random(uint64(10+i), r[1])
			if r[1] == 8*blk {
				p = p[:5*blk] // ends inside
			}
			_, err := d.WriteAt(p, r[0])
			s.must(err, "write %d bytes at %d", len(p), r[0])
			copy(want[r[0]:], p)
			s.wantBytes(target.ID, want, fmt.Sprintf("%s after writing %v", target.Name, r))
			got := make([]byte, r[1])
			_, err = d.ReadAt(got, r[0])
			s.must(err, "read %d bytes at %d", r[1], r[0])
			if !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
				s.Errorf("%s: read back %v differs", target.Name, r)
			}
		}
	}
	s.wantBytes(parent.ID, base, "the parent after writes to its clone")
}

// TestDeviceRange: what is outside the device is ErrRange and changes nothing.
func (s *suite) TestDeviceRange() {
	img := s.create("img", 4*blk)
	want := s.fill(img.ID, 0, 4*blk, 'a')
	d := s.open(img.ID)
	for _, r := range [][2]int64{
		{-1, 1}, {-blk, 2 * blk}, {4*blk - 1, 2}, {4 * blk, 1}, {5 * blk, blk}, {1<<63 - 1, 1}, {1<<63 - 1 - blk, 2 * blk}, {3 * blk, 8 * blk},
	} {
		what := fmt.Sprintf("of %d bytes at %d", r[1], r[0])
		p := make([]byte, r[1])
		_, err := d.ReadAt(p, r[0])
		s.wantErr(err, "read "+what, store.ErrRange)
		_, err = d.WriteAt(p, r[0])
		s.wantErr(err, "write "+what, store.ErrRange)
		s.wantErr(d.Zero(r[0], r[1], false), "zero "+what, store.ErrRange)
		s.wantErr(d.Discard(r[0], r[1]), "discard "+what, store.ErrRange)
		s.wantErr(d.Extents(r[0], r[1], "", func(store.Extent) bool { return true }), "extents "+what, store.ErrRange)
	}
	for _, length := range []int64{-1, 1<<63 - 1, -1 << 63} {
		s.wantErr(d.Zero(blk, length, false), fmt.Sprintf("zero of %d bytes", length), store.ErrRange)
		s.wantErr(d.Discard(blk, length), fmt.Sprintf("discard of %d bytes", length), store.ErrRange)
	}
	n, err := d.ReadAt(nil, 4*blk)
	if n != 0 || err != nil {
		s.Errorf("reading nothing at the end answers %d, %v", n, err)
	}
	s.wantBytes(img.ID, want, "after refused I/O")
}

// TestDeviceZero: Zero is exact to the byte, with and without allocation.
func (s *suite) TestDeviceZero() {
	for _, allocate := range []bool{false, true} {
		parent := s.create(fmt.Sprintf("parent-%v", allocate), 6*blk)
		s.fill(parent.ID, 0, 6*blk, 'p')
		img := s.clone(fmt.Sprintf("img-%v", allocate), parent.ID)
		want := bytes.Repeat([]byte{'p'}, int(6*blk))
		copy(want, s.fill(img.ID, 0, 3*blk, 'c'))
		for _, r := range [][2]int64{{0, 0}, {10, 20}, {blk - 1, 2}, {blk, blk}, {3*blk + 1, 2 * blk}, {6*blk - 1, 1}} {
			s.zero(img.ID, r[0], r[1], allocate)
			clear(want[r[0] : r[0]+r[1]])
			s.wantBytes(img.ID, want, fmt.Sprintf("after zeroing %v, allocate %v", r, allocate))
		}
		s.wantRange(parent.ID, 0, 6*blk, 'p', "the parent after zeroing its clone")
	}
}

// TestDeviceDiscard: Discard clears the whole blocks in the range and leaves the edges.
func (s *suite) TestDeviceDiscard() {
	img := s.create("img", 8*blk)
	want := s.fill(img.ID, 0, 8*blk, 'a')
	for _, r := range [][2]int64{{0, 0}, {1, blk}, {10, blk - 20}, {blk, blk}, {3*blk - 1, blk + 2}, {5*blk + 1, 3*blk - 1}} {
		s.discard(img.ID, r[0], r[1])
		first, last := (r[0]+blk-1)/blk*blk, (r[0]+r[1])/blk*blk
		if first < last {
			clear(want[first:last])
		}
		s.wantBytes(img.ID, want, fmt.Sprintf("after discarding %v", r))
	}
}

// TestDeviceExtents: extents cover the range exactly and tell the truth.
func (s *suite) TestDeviceExtents() {
	parent := s.create("parent", 12*blk)
	s.fill(parent.ID, 2*blk, 4*blk, 'p')
	img := s.image(store.Spec{Name: "img", Parent: parent.ID, Size: 16 * blk})
	s.fill(img.ID, 0, blk, 'c')
	s.discard(img.ID, 3*blk, blk)
	s.zero(img.ID, 4*blk, blk, false)
	s.fill(img.ID, 9*blk+100, 50, 'c')
	d := s.open(img.ID)
	for _, r := range [][2]int64{{0, 16 * blk}, {0, blk}, {100, 5*blk + 7}, {3*blk + 1, 1}, {15 * blk, blk}, {7, 0}} {
		s.wantExtents(d, r[0], r[1])
	}
	want := map[int64]bool{0: true, 2: true, 5: true, 9: true} // blocks that hold data
	s.eachExtent(d, 0, 16*blk, func(e store.Extent) {
		for b := e.Offset / blk; b*blk < e.Offset+e.Length; b++ {
			if want[b] != e.Data || want[b] == e.Zero {
				s.Errorf("block %d has extent %+v, want data %v", b, e, want[b])
			}
			if b == 0 && e.Depth != 1 || (b == 2 || b == 5) && e.Depth < 2 || b > 9 && e.Depth != 0 {
				s.Errorf("block %d has depth %d", b, e.Depth)
			}
		}
	})
	calls := 0
	s.must(d.Extents(0, 16*blk, "", func(store.Extent) bool { calls++; return false }), "extents, stopped")
	if calls != 1 {
		s.Errorf("extents went on after false: %d calls", calls)
	}
}

func (s *suite) eachExtent(d store.Device, off, length int64, fn func(store.Extent)) {
	s.Helper()
	s.must(d.Extents(off, length, "", func(e store.Extent) bool { fn(e); return true }), "extents")
}

// wantExtents requires that the extents of the range cover it and fit its bytes.
func (s *suite) wantExtents(d store.Device, off, length int64) {
	s.Helper()
	p := make([]byte, length)
	_, err := d.ReadAt(p, off)
	s.must(err, "read")
	next := off
	s.eachExtent(d, off, length, func(e store.Extent) {
		if e.Offset != next || e.Length <= 0 || e.Offset+e.Length > off+length {
			s.Fatalf("extent %+v does not continue at %d of %d bytes from %d", e, next, length, off)
		}
		next += e.Length
		if isZero := len(bytes.Trim(p[e.Offset-off:next-off], "\x00")) == 0; !isZero && (e.Zero || !e.Data) {
			s.Errorf("extent %+v holds bytes that are not zero", e)
		}
	})
	if next != off+length {
		s.Errorf("extents end at %d, want %d", next, off+length)
	}
}

// TestDeviceSnapshotReadOnly: a snapshot cannot be written in any way.
func (s *suite) TestDeviceSnapshotReadOnly() {
	img := s.create("img", 2*blk)
	want := s.fill(img.ID, 0, 2*blk, 'a')
	snap := s.snapshot(img.ID, "snap")
	d := s.open(snap.ID)
	_, err := d.WriteAt([]byte("x"), 0)
	s.wantErr(err, "write to a snapshot", store.ErrReadOnly)
	s.wantErr(d.Zero(0, blk, false), "zero of a snapshot", store.ErrReadOnly)
	s.wantErr(d.Discard(0, blk), "discard of a snapshot", store.ErrReadOnly)
	if err := d.Flush(); err != nil {
		s.wantErr(err, "flush of a snapshot", store.ErrReadOnly)
	}
	if got := d.Info(); got.ID != snap.ID || got.Kind != store.KindSnapshot {
		s.Errorf("the device describes %+v", got)
	}
	s.wantBytes(snap.ID, want, "the snapshot after refused writes")
	s.wantBytes(img.ID, want, "the image after refused writes to its snapshot")
}

// TestDeviceClosed: a closed device says so; other devices of the image go on.
func (s *suite) TestDeviceClosed() {
	img := s.create("img", 2*blk)
	a, b := s.open(img.ID), s.open(img.ID)
	s.must(a.Close(), "close")
	_, err := a.ReadAt(make([]byte, 1), 0)
	s.wantErr(err, "read from a closed device", store.ErrClosed)
	_, err = a.WriteAt([]byte("x"), 0)
	s.wantErr(err, "write to a closed device", store.ErrClosed)
	s.wantErr(a.Zero(0, blk, false), "zero of a closed device", store.ErrClosed)
	s.wantErr(a.Discard(0, blk), "discard of a closed device", store.ErrClosed)
	s.wantErr(a.Flush(), "flush of a closed device", store.ErrClosed)
	if err := a.Close(); err != nil {
		s.wantErr(err, "closing twice", store.ErrClosed)
	}
	_, err = b.WriteAt([]byte("x"), 0)
	s.must(err, "write to the device that is still open")
	s.wantErr(s.s.Remove(s.ctx, img.ID), "remove while the other device is open", store.ErrInUse)
	s.must(b.Close(), "close")
	s.remove(img.ID)
}

// TestDeviceSharedView: devices of one image see each other's writes and its size at once.
func (s *suite) TestDeviceSharedView() {
	img := s.create("img", 2*blk)
	a, b := s.open(img.ID), s.open(img.ID)
	for i := range 20 {
		want := random(uint64(i), blk)
		_, err := a.WriteAt(want, blk)
		s.must(err, "write")
		got := make([]byte, blk)
		_, err = b.ReadAt(got, blk)
		s.must(err, "read")
		if !bytes.Equal(got, want) {
			s.Fatalf("round %d: the other device does not see the write", i)
		}
		if i == 10 {
			s.snapshot(img.ID, "snap")
		}
	}
	s.resize(img.ID, 4*blk)
	if got := b.Info().Size; got != 4*blk {
		s.Errorf("an open device shows size %d after growing", got)
	}
	_, err := b.WriteAt([]byte("x"), 3*blk)
	s.must(err, "write to the grown part")
	s.resize(img.ID, blk)
	_, err = a.ReadAt(make([]byte, 1), blk)
	s.wantErr(err, "read beyond a shrunk image", store.ErrRange)
}
