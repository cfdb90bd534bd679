//go:build kernelnbd

package scenario

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steadyBlock is the unit of a steady writer.
const steadyBlock = 4096

// steady writes block after block past the page cache, one at a time, each with a
// number that only rises, and keeps the time between two that were answered. Its file
// says at any time what must be in it.
type steady struct {
	file   *os.File
	buf    []byte
	blocks int64
	random *rand.Rand
	pace   time.Duration // between two writes; set before the start

	stopped chan struct{}
	ended   chan struct{}
	writes  atomic.Int64

	mu    sync.Mutex
	acked []uint64 // by block: the number last answered
	last  time.Time
	gap   time.Duration
	err   error
}

// startSteady begins to write to a file (or device) at path of size bytes.
func startSteady(t *testing.T, path string, size int64, r *rand.Rand) *steady {
	t.Helper()
	return startPaced(t, path, size, 0, r)
}

// startPaced is startSteady with a pause before each write.
func startPaced(t *testing.T, path string, size int64, pace time.Duration, r *rand.Rand) *steady {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	buf, err := unix.Mmap(-1, 0, steadyBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	s := &steady{
		file: f, buf: buf, blocks: size / steadyBlock, pace: pace, last: time.Now(),
		stopped: make(chan struct{}), ended: make(chan struct{}),
		random: rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), acked: make([]uint64, size/steadyBlock),
	}
	go s.run()
	t.Cleanup(func() { releaseIO(t); _ = s.halt(); f.Close() })
	return s
}

func (s *steady) run() {
	defer close(s.ended)
	for n := uint64(1); s.next(); n++ {
		block := s.random.Int64N(s.blocks)
		fillSteady(s.buf, block, n)
		_, err := s.file.WriteAt(s.buf, block*steadyBlock)
		if err == nil && n%16 == 0 {
			err = s.file.Sync()
		}
		now := time.Now()
		s.mu.Lock()
		s.gap = max(s.gap, now.Sub(s.last))
		s.last = now
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return
		}
		s.acked[block] = n
		s.mu.Unlock()
		s.writes.Add(1)
	}
}

// next waits for the pace and tells whether there is another write.
func (s *steady) next() bool {
	if s.pace == 0 {
		select {
		case <-s.stopped:
			return false
		default:
			return true
		}
	}
	select {
	case <-s.stopped:
		return false
	case <-time.After(s.pace):
		return true
	}
}

func fillSteady(buf []byte, block int64, n uint64) {
	for i := 0; i < len(buf); i += 16 {
		binary.LittleEndian.PutUint64(buf[i:], uint64(block)<<32|uint64(i))
		binary.LittleEndian.PutUint64(buf[i+8:], n)
	}
}

// largestGap returns the longest time between two answers since the last call, the
// time that a write has been waiting by now included.
func (s *steady) largestGap() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	gap := max(s.gap, time.Since(s.last))
	s.gap = 0
	return gap
}

// advance waits until the writer has got n answers from now on.
func (s *steady) advance(t *testing.T, n int64, bound time.Duration) {
	t.Helper()
	s.reach(t, s.writes.Load()+n, bound)
}

// reach waits until the writer has got so many answers in all.
func (s *steady) reach(t *testing.T, count int64, bound time.Duration) {
	t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.NewTimer(bound)
	defer tick.Stop()
	defer late.Stop()
	for s.writes.Load() < count {
		if err := s.failed(); err != nil {
			t.Fatalf("steady writer: %v", err)
		}
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("steady writer: no answer within %v", bound)
		}
	}
}

func (s *steady) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// halt ends the writer and returns the error it met, which may be that a write does not
// come back.
func (s *steady) halt() error {
	select {
	case <-s.stopped:
	default:
		close(s.stopped)
	}
	if err := comesBack(s.ended, "a write"); err != nil {
		return err
	}
	return s.failed()
}

// verify ends the writer, compares every block with what was answered and closes the
// file.
func (s *steady) verify(t *testing.T) {
	t.Helper()
	if err := s.halt(); err != nil {
		t.Fatalf("steady writer: %v", err)
	}
	if err := errors.Join(s.compare(s.file), s.file.Close()); err != nil {
		t.Error(err)
	}
}

// compare reads all blocks of f, which holds what the writer's file holds.
func (s *steady) compare(f *os.File) error {
	const piece = 1 << 20 / steadyBlock
	buf, err := unix.Mmap(-1, 0, piece*steadyBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	want := make([]byte, steadyBlock)
	for first := int64(0); first < s.blocks; first += piece {
		n, err := f.ReadAt(buf, first*steadyBlock)
		for i := range min(piece, s.blocks-first) {
			block := first + i
			if s.acked[block] == 0 {
				continue
			}
			if int64(n) < (i+1)*steadyBlock {
				return fmt.Errorf("read block %d: %w", block, err)
			}
			got := buf[i*steadyBlock:][:steadyBlock]
			if fillSteady(want, block, s.acked[block]); !bytes.Equal(want, got) {
				return fmt.Errorf("block %d holds write %d, answered was %d", block,
					binary.LittleEndian.Uint64(got[8:]), s.acked[block])
			}
		}
	}
	return nil
}

// errWanted tells an I/O error from others.
func errWanted(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.ESHUTDOWN)
}
