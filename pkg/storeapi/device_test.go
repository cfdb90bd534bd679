package storeapi

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/store/storetest"
)

// remote offers full by API and NBD and returns a client of it.
func remote(t *testing.T, full store.Full) (c *Client, stopNBD func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sapi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	endpoint, stop := serveNBD(t, dir, full)
	var once sync.Once
	stopNBD = func() { once.Do(stop) }
	t.Cleanup(stopNBD)
	c, _ = serveIn(t, dir, full, endpoint)
	return c, stopNBD
}

// TestConformance: a store behind the API keeps every promise of package store.
func TestConformance(t *testing.T) {
	behind := make(map[store.Full]*memstore.Store)
	offer := func(t *testing.T, mem *memstore.Store) store.Full {
		c, _ := remote(t, mem)
		behind[c] = mem
		return c
	}
	storetest.Run(t, func(t *testing.T) store.Full { return offer(t, memstore.New()) }, storetest.Limits{
		Skip: map[string]string{
			"TestScratchFenced": "NBD has no number for a right that was withdrawn; servers cut the connection instead",
		},
		Reopen: func(inner *testing.T, s store.Full) store.Full {
			if err := errors.Join(s.Close(), behind[s].Close()); err != nil {
				inner.Fatal(err)
			}
			// It must outlive the clean-up of the case, which checks it.
			return offer(t, behind[s].Reopen())
		},
	})
}

func makeImage(t *testing.T, c *Client, size int64, blockSize int) (store.Info, store.Device) {
	t.Helper()
	img, err := c.Create(t.Context(), store.Spec{Name: "img", Size: size, BlockSize: blockSize})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Open(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	return img, d
}

func TestLostConnectionIsUnavailable(t *testing.T) {
	c, stop := remote(t, memstore.New())
	_, d := makeImage(t, c, 16*store.Block, 512)
	p := bytes.Repeat([]byte{1}, store.Block)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := d.WriteAt(p, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("write: %v", err)
	}
	if _, err := d.ReadAt(p, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if err := d.Flush(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("flush: %v", err)
	}
	if _, err := c.Open(t.Context(), d.Info().ID); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("open: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestDeviceFollowsResize: growing and shrinking under an open device.
func TestDeviceFollowsResize(t *testing.T) {
	c, _ := remote(t, memstore.New())
	img, d := makeImage(t, c, 4*store.Block, 0)
	defer d.Close()
	p := bytes.Repeat([]byte{7}, store.Block)
	if _, err := d.WriteAt(p, 4*store.Block); !errors.Is(err, store.ErrRange) {
		t.Errorf("write past the end: %v", err)
	}
	for _, size := range []int64{8 * store.Block, 4 * store.Block, 16 * store.Block} {
		if _, err := c.Resize(t.Context(), img.ID, size); err != nil {
			t.Fatal(err)
		}
		if got := d.Info().Size; got != size {
			t.Errorf("the device says %d bytes, want %d", got, size)
		}
		if _, err := d.WriteAt(p, size-store.Block); err != nil {
			t.Errorf("write at the end of %d bytes: %v", size, err)
		}
		if _, err := d.WriteAt(p, size); !errors.Is(err, store.ErrRange) {
			t.Errorf("write past %d bytes: %v", size, err)
		}
		if err := d.Zero(size, store.Block, false); !errors.Is(err, store.ErrRange) {
			t.Errorf("zero past %d bytes: %v", size, err)
		}
	}
}

// TestGrowUnderManyRequests: requests that find the image grown at the same time all
// land, whichever of them replaces the connection.
func TestGrowUnderManyRequests(t *testing.T) {
	c, _ := remote(t, memstore.New())
	img, d := makeImage(t, c, 4*store.Block, 0)
	defer d.Close()
	const rounds, writers = 30, 8
	for round := range int64(rounds) {
		end := (round + 2) * writers * store.Block
		if _, err := c.Resize(t.Context(), img.ID, end); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range int64(writers) {
			wg.Go(func() {
				if _, err := d.WriteAt(bytes.Repeat([]byte{byte(w)}, store.Block), end-(w+1)*store.Block); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
}

// TestSmallWritesOfOneBlockAllLand: writers of neighbouring bytes, on two devices of
// one image, do not undo each other.
func TestSmallWritesOfOneBlockAllLand(t *testing.T) {
	c, _ := remote(t, memstore.New())
	img, d1 := makeImage(t, c, 4*store.Block, 4096)
	defer d1.Close()
	d2, err := c.Open(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer d2.Close()
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for w := range writers {
		d := []store.Device{d1, d2}[w%2]
		wg.Go(func() {
			for i := range each {
				at := int64(i*writers + w)
				if _, err := d.WriteAt([]byte{byte(w + 1)}, at); err != nil {
					t.Errorf("write at %d: %v", at, err)
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, writers*each)
	if _, err := d1.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for i, b := range got {
		if b != byte(i%writers+1) {
			t.Fatalf("byte %d is %d, want %d", i, b, i%writers+1)
		}
	}
}

func TestExtentsOfManyPages(t *testing.T) {
	c, _ := remote(t, memstore.New())
	const blocks = 3*pageExtents + 10
	img, d := makeImage(t, c, blocks*store.Block, 0)
	defer d.Close()
	p := bytes.Repeat([]byte{1}, store.Block)
	for b := int64(0); b < blocks; b += 2 {
		if _, err := d.WriteAt(p, b*store.Block); err != nil {
			t.Fatal(err)
		}
	}
	var next int64
	count := 0
	err := d.Extents(0, img.Size, "", func(e store.Extent) bool {
		if e.Offset != next || e.Data != (count%2 == 0) {
			t.Fatalf("extent %d is %+v, want it at %d", count, e, next)
		}
		next, count = e.Offset+e.Length, count+1
		return true
	})
	if err != nil || count != blocks || next != img.Size {
		t.Errorf("%d extents up to %d, %v; want %d up to %d", count, next, err, blocks, img.Size)
	}
	count = 0
	if err := c.Diff(t.Context(), "", img.ID, func(store.Extent) error { count++; return nil }); err != nil || count != blocks/2 {
		t.Errorf("diff gives %d ranges, %v; want %d", count, err, blocks/2)
	}
}

func TestCloseFlushesAndClosesDevices(t *testing.T) {
	mem := memstore.New()
	c, _ := remote(t, mem)
	img, d := makeImage(t, c, 4*store.Block, 0)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := c.Open(t.Context(), img.ID); !errors.Is(err, store.ErrClosed) {
		t.Errorf("open after close: %v", err)
	}
	if got := d.Info(); got.ID != img.ID {
		t.Errorf("a closed device forgot what it was: %+v", got)
	}
}
