package layered_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// seed is that of a random test: STRATA_SEED, else of the clock.
func seed(t testing.TB) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRATA_SEED"); s != "" {
		given, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("STRATA_SEED=%q: %v", s, err)
		}
		n = given
	}
	t.Logf("STRATA_SEED=%d replays", n)
	return n
}

// owner writes to a region of an image that nobody else writes to, and knows what it
// holds.
type owner struct {
	r     *rig
	rng   *rand.Rand
	dev   store.Device
	off   int64
	bytes []byte
}

// step does one random request and compares what it reads.
func (o *owner) step() error {
	at := o.rng.Int64N(int64(len(o.bytes)))
	n := min(1+o.rng.Int64N(24<<10), int64(len(o.bytes))-at)
	switch o.rng.IntN(5) {
	case 0, 1:
		p := pattern(n, o.rng.Uint64())
		copy(o.bytes[at:], p)
		_, err := o.dev.WriteAt(p, o.off+at)
		return err
	case 2:
		at, n = at/4096*4096, (n+4095)/4096*4096
		n = min(n, int64(len(o.bytes))-at)
		clear(o.bytes[at : at+n])
		return o.dev.Discard(o.off+at, n)
	case 3:
		clear(o.bytes[at : at+n])
		return o.dev.Zero(o.off+at, n, o.rng.IntN(2) == 0)
	}
	got := make([]byte, n)
	if _, err := o.dev.ReadAt(got, o.off+at); err != nil {
		return err
	}
	if !bytes.Equal(got, o.bytes[at:at+n]) {
		return fmt.Errorf("%d bytes at %d are not what was written", n, o.off+at)
	}
	return nil
}

// work runs all owners until stop is closed, each at least a number of steps.
func work(t *testing.T, owners []*owner, least int, stop <-chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	for _, o := range owners {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n >= least {
						return
					}
				default:
				}
				if err := o.step(); err != nil {
					t.Errorf("step %d: %v", n, err)
					return
				}
			}
		})
	}
	return &wg
}

// owners splits an image into regions with an owner each.
func (r *rig) owners(id store.ID, rng *rand.Rand, size int64, count int64, content []byte) (list []*owner) {
	r.Helper()
	for n := range count {
		dev, err := r.st.Open(r.ctx, id)
		r.must(err)
		from := size / count * n
		list = append(list, &owner{r: r, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), dev: dev, off: from,
			bytes: bytes.Clone(content[from : from+size/count])})
	}
	return list
}

func (r *rig) checkOwners(id store.ID, list []*owner) {
	r.Helper()
	var want []byte
	for _, o := range list {
		want = append(want, o.bytes...)
		r.must(o.dev.Close())
	}
	r.want(id, "the image after all", want)
}

// Reads, writes, discards and zeroes see their own effects while layers are merged,
// filled and cut below them, and snapshots keep what they froze.
func TestContentWhileLayersChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 1))
	l := newLab(t, nil)
	const size = 12 * mib // three chunks
	parent := l.create("parent", size)
	l.write(parent.ID, 0, size, 1)
	image := l.clone(parent.ID, "image")
	list := l.owners(image.ID, rng, size, 4, pattern(size, 1))
	stop := make(chan struct{})
	wg := work(t, list, 100, stop)
	func() {
		defer wg.Wait()
		defer close(stop)
		for round := range 12 {
			var snaps []store.Info
			for n := range 4 {
				snaps = append(snaps, l.snap(image.ID, fmt.Sprintf("s%d-%d", round, n)))
			}
			frozen := l.read(snaps[2].ID, 0, size)
			child := l.clone(snaps[2].ID, fmt.Sprintf("child%d", round))
			rng.Shuffle(len(snaps), func(i, j int) { snaps[i], snaps[j] = snaps[j], snaps[i] })
			for _, s := range snaps {
				l.remove(s.ID)
			}
			if round%2 == 0 {
				l.must(l.st.Flatten(l.ctx, child.ID))
			}
			if round%4 == 1 {
				l.must(l.st.Flatten(l.ctx, image.ID))
			}
			l.want(child.ID, "a clone of a removed snapshot", frozen)
			l.remove(child.ID)
		}
	}()
	l.checkOwners(image.ID, list)
	l.want(parent.ID, "the parent", pattern(size, 1))
	l.clean()
}

// Opening and closing while layers are merged away leaves no file open, no layer
// behind, and always shows the right bytes.
func TestOpenersWhileLayersMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 2))
	l := newLab(t, nil)
	const size = mib
	image := l.create("image", size)
	l.write(image.ID, 0, size, 1)
	want := pattern(size, 1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var opened atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.openAndRead(image.ID, want[size/2:], size/2); err != nil {
					t.Error(err)
					return
				}
				opened.Add(1)
			}
		})
	}
	for round := range 40 {
		var snaps []store.Info
		for n := range 3 {
			off := rng.Int64N(size/2/4096) * 4096
			l.write(image.ID, off, 4096, uint64(round))
			snaps = append(snaps, l.snap(image.ID, fmt.Sprintf("s%d-%d", round, n)))
		}
		for _, s := range snaps {
			l.remove(s.ID)
		}
	}
	close(stop)
	wg.Wait()
	l.clean()
	if n := l.mem.OpenCount(); n != 0 {
		t.Errorf("%d files are open although no device is", n)
	}
	if s := l.status(); s.Layers > 2 {
		t.Errorf("%d layers remain of one image", s.Layers)
	}
	t.Logf("opened %d times", opened.Load())
}

func (r *rig) openAndRead(id store.ID, want []byte, off int64) error {
	dev, err := r.st.Open(r.ctx, id)
	if err != nil {
		return err
	}
	got := make([]byte, len(want))
	_, err = dev.ReadAt(got, off)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("an opener read something else than was written")
	}
	return errors.Join(err, dev.Close())
}

// counter writes 1, 2, 3, ... to the blocks of a region in turn, so that any state of
// it tells whether it is that of one instant.
type counter struct {
	dev          store.Device
	first        int64 // block
	began, ended atomic.Uint64
}

const counterBlocks = 8

func (c *counter) run(stop <-chan struct{}) error {
	var p [4096]byte
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		binary.LittleEndian.PutUint64(p[:], n)
		binary.LittleEndian.PutUint64(p[4088:], n)
		c.began.Store(n)
		if _, err := c.dev.WriteAt(p[:], (c.first+int64(n%counterBlocks))*4096); err != nil {
			return err
		}
		c.ended.Store(n)
	}
}

// cut finds the instant that a frozen region shows; it fails if there is none.
func (c *counter) cut(region []byte) (at uint64, err error) {
	var seen [counterBlocks]uint64
	for b := range seen {
		block := region[b*4096 : b*4096+4096]
		seen[b] = binary.LittleEndian.Uint64(block)
		if seen[b] != binary.LittleEndian.Uint64(block[4088:]) {
			return 0, fmt.Errorf("block %d is torn", b)
		}
		at = max(at, seen[b])
	}
	for b, n := range seen {
		want := at - (at-uint64(b))%counterBlocks
		if at < uint64(b) || want == 0 {
			want = 0
		}
		if n != want {
			return 0, fmt.Errorf("block %d shows write %d where write %d is in: %v", b, n, at, seen)
		}
	}
	return at, nil
}
