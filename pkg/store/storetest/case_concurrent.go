package storetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/strata-csi/strata/pkg/store"
)

// TestConcurrentOverlap: overlapping writes of several writers are not torn: when all
// have returned, the whole range is of one call.
func (s *suite) TestConcurrentOverlap() {
	const length, writers = 8 * blk, 4
	parent := s.create("parent", 2*length)
	s.write(parent.ID, 0, random(1, 2*length))
	img := s.clone("img", parent.ID)
	var devices []store.Device
	for range writers {
		devices = append(devices, s.open(img.ID))
	}
	for round := range 200 {
		off := int64(round % 3 * 512) // aligned and not
		errs := make([]error, writers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for w, d := range devices {
			p := bytes.Repeat([]byte{byte(1 + round%60*writers + w)}, int(length))
			wg.Go(func() {
				<-start
				_, errs[w] = d.WriteAt(p, off)
			})
		}
		close(start)
		wg.Wait()
		for _, err := range errs {
			s.must(err, "write")
		}
		got := make([]byte, length)
		_, err := devices[0].ReadAt(got, off)
		s.must(err, "read")
		if rest := bytes.TrimLeft(got, string(got[:1])); len(rest) > 0 {
			s.Fatalf("round %d: the range begins as call %d and goes on as call %d", round, got[0], rest[0])
		}
	}
}

// TestConcurrentOrder: a write begun after another has returned wins, also when other
// writers hit the same blocks, and a snapshot comes in between.
func (s *suite) TestConcurrentOrder() {
	img := s.create("img", 16*blk)
	const writers, rounds = 4, 60
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range errs {
		d := s.open(img.ID)
		wg.Go(func() { errs[w] = countUp(d, int64(w)*512, rounds) })
	}
	var snaps []store.Info
	for i := range 10 {
		snaps = append(snaps, s.snapshot(img.ID, fmt.Sprintf("s%d", i)))
	}
	wg.Wait()
	for _, err := range errs {
		s.must(err, "writer")
	}
	low := make([]uint64, writers)
	for _, v := range append(snaps, img) {
		p := s.read(v.ID)
		for w := range writers {
			n := binary.LittleEndian.Uint64(p[w*512:])
			for b := range int64(16) { // all blocks in one round, or split at one place
				m := binary.LittleEndian.Uint64(p[b*blk+int64(w)*512:])
				if m > n || m+1 < n {
					s.Errorf("%s: writer %d shows %d in block 0 and %d in block %d", v.Ref(), w, n, m, b)
				}
				n = m
			}
			if n < low[w] {
				s.Errorf("%s: writer %d goes back from %d to %d", v.Ref(), w, low[w], n)
			}
			low[w] = n
		}
	}
	for w := range writers {
		if low[w] != rounds {
			s.Errorf("writer %d ends at %d, want %d", w, low[w], rounds)
		}
	}
}

// countUp writes the round's number into its own sector of every block, in order, and
// reads its own writes.
func countUp(d store.Device, at int64, rounds int) error {
	p, q := make([]byte, 512), make([]byte, 512)
	for n := 1; n <= rounds; n++ {
		binary.LittleEndian.PutUint64(p, uint64(n))
		for b := range int64(16) {
			if _, err := d.WriteAt(p, b*blk+at); err != nil {
				return err
			}
			if _, err := d.ReadAt(q, b*blk+at); err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				return fmt.Errorf("round %d, block %d: own write is not read back", n, b)
			}
		}
	}
	return nil
}

// TestConcurrentEverything: all kinds of calls at once end, with known errors at most,
// and leave a clean store.
func (s *suite) TestConcurrentEverything() {
	base := s.create("base", 64*blk)
	want := random(1, 64*blk)
	s.write(base.ID, 0, want)
	snap := s.snapshot(base.ID, "snap")
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.liveAndDie(fmt.Sprintf("w%d", i), snap.ID, uint64(i)) })
	}
	wg.Wait()
	for _, err := range errs {
		s.must(err, "a life")
	}
	s.settle()
	s.wantBytes(snap.ID, want, "the snapshot that all came from")
	s.wantCount(1, 1)
}

// liveAndDie takes clones of a snapshot through all that can happen to them.
func (s *suite) liveAndDie(name string, parent store.ID, seed uint64) error {
	for round := range 5 {
		img, err := s.s.Create(s.ctx, store.Spec{Name: fmt.Sprintf("%s-%d", name, round), Parent: parent})
		if err != nil {
			return err
		}
		d, err := s.s.Open(s.ctx, img.ID)
		if err != nil {
			return err
		}
		defer d.Close()
		want := make([]byte, img.Size)
		if _, err := d.ReadAt(want, 0); err != nil {
			return err
		}
		snap, err := s.s.Snapshot(s.ctx, img.ID, "snap")
		if err != nil {
			return err
		}
		if err := scribble(d, want, seed, 40); err != nil {
			return err
		}
		if err := s.s.Flatten(s.ctx, img.ID); err != nil {
			return err
		}
		got := make([]byte, img.Size)
		if _, err := d.ReadAt(got, 0); err != nil {
			return err
		}
		if why := difference(got, want); why != "" {
			return fmt.Errorf("%s: %s", img.Name, why)
		}
		if err := d.Close(); err != nil {
			return err
		}
		for _, id := range []store.ID{img.ID, snap.ID} {
			if err := s.s.Remove(s.ctx, id); err != nil {
				return err
			}
		}
	}
	return nil
}
