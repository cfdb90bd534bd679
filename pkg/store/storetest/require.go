package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/strata-csi/strata/pkg/store"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	blk = int64(store.Block)
)

func (s *suite) must(err error, what string, args ...any) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// wantErr requires that err is one of the sentinels.
func (s *suite) wantErr(err error, what string, sentinels ...error) {
	s.Helper()
	for _, want := range sentinels {
		if errors.Is(err, want) {
			return
		}
	}
	s.Errorf("%s answers %v, want %v", what, err, sentinels)
}

func (s *suite) create(name string, size int64) store.Info {
	s.Helper()
	return s.image(store.Spec{Name: name, Size: size})
}

func (s *suite) clone(name string, parent store.ID) store.Info {
	s.Helper()
	return s.image(store.Spec{Name: name, Parent: parent})
}

func (s *suite) image(spec store.Spec) store.Info {
	s.Helper()
	info, err := s.s.Create(s.ctx, spec)
	s.must(err, "create %+v", spec)
	return info
}

func (s *suite) snapshot(image store.ID, name string) store.Info {
	s.Helper()
	info, err := s.s.Snapshot(s.ctx, image, name)
	s.must(err, "snapshot %q", name)
	return info
}

func (s *suite) stat(id store.ID) store.Info {
	s.Helper()
	info, err := s.s.Stat(s.ctx, id)
	s.must(err, "stat %s", id)
	return info
}

func (s *suite) remove(id store.ID) {
	s.Helper()
	s.must(s.s.Remove(s.ctx, id), "remove %s", id)
}

func (s *suite) resize(id store.ID, size int64) {
	s.Helper()
	info, err := s.s.Resize(s.ctx, id, size)
	s.must(err, "resize %s to %d", id, size)
	if info.Size != size {
		s.Errorf("resize to %d answers size %d", size, info.Size)
	}
}

func (s *suite) open(id store.ID) store.Device {
	s.Helper()
	d, err := s.s.Open(s.ctx, id)
	s.must(err, "open %s", id)
	s.devices = append(s.devices, d)
	return d
}

func (s *suite) write(id store.ID, off int64, p []byte) {
	s.Helper()
	s.with(id, func(d store.Device) {
		n, err := d.WriteAt(p, off)
		s.must(err, "write %d bytes at %d", len(p), off)
		if n != len(p) {
			s.Fatalf("write of %d bytes at %d wrote %d", len(p), off, n)
		}
	})
}

// fill writes letters over length bytes and returns them.
func (s *suite) fill(id store.ID, off, length int64, letter byte) []byte {
	s.Helper()
	p := bytes.Repeat([]byte{letter}, int(length))
	s.write(id, off, p)
	return p
}

func (s *suite) discard(id store.ID, off, length int64) {
	s.Helper()
	s.with(id, func(d store.Device) {
		s.must(d.Discard(off, length), "discard %d bytes at %d", length, off)
	})
}

func (s *suite) zero(id store.ID, off, length int64, allocate bool) {
	s.Helper()
	s.with(id, func(d store.Device) {
		s.must(d.Zero(off, length, allocate), "zero %d bytes at %d", length, off)
	})
}

// with opens the object for one use.
func (s *suite) with(id store.ID, fn func(store.Device)) {
	s.Helper()
	d, err := s.s.Open(s.ctx, id)
	s.must(err, "open %s", id)
	defer d.Close()
	fn(d)
}

// read returns all bytes of the object.
func (s *suite) read(id store.ID) []byte {
	s.Helper()
	var p []byte
	s.with(id, func(d store.Device) {
		p = make([]byte, d.Info().Size)
		n, err := d.ReadAt(p, 0)
		s.must(err, "read %d bytes", len(p))
		if n != len(p) {
			s.Fatalf("read of %d bytes answers %d", len(p), n)
		}
	})
	return p
}

// wantBytes requires that the whole object reads as want.
func (s *suite) wantBytes(id store.ID, want []byte, what string) {
	s.Helper()
	if why := difference(s.read(id), want); why != "" {
		s.Errorf("%s: %s", what, why)
	}
}

// wantRange requires that a range of the object reads as letter.
func (s *suite) wantRange(id store.ID, off, length int64, letter byte, what string) {
	s.Helper()
	got := s.read(id)
	if int64(len(got)) < off+length {
		s.Fatalf("%s: the object has %d bytes, want at least %d", what, len(got), off+length)
	}
	if why := difference(got[off:off+length], bytes.Repeat([]byte{letter}, int(length))); why != "" {
		s.Errorf("%s: in the range at %d: %s", what, off, why)
	}
}

// difference tells in words where two byte slices differ, "" if they are equal.
func difference(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	first, count := -1, 0
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			count++
		}
	}
	return fmt.Sprintf("%d bytes differ, the first at %d (block %d): got %#02x, want %#02x",
		count, first, first/store.Block, got[first], want[first])
}

// settle waits until no background job is left that can go on by itself.
func (s *suite) settle() {
	s.Helper()
	s.must(settle(s.ctx, s.s), "waiting for jobs")
}

// random returns n bytes that no call with another seed returns; none is zero, so that
// lost data shows.
func random(seed uint64, n int64) []byte {
	return stamped(rand.New(rand.NewPCG(seed, 1)).Uint64(), n)
}
