package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
)

// memory is a source and sink that counts and can be told to fail.
type memory struct {
	mu      sync.Mutex
	b       []byte
	holes   bool // Extents tells zeros in grains
	written int64
	zeroed  int64
	flushed int
	inUse   int
	most    int
	failAt  int64 // reads and writes that touch it fail; -1 for none
}

var errBroken = errors.New("broken medium")

func newMemory(b []byte) *memory { return &memory{b: b, failAt: -1} }

func (m *memory) begin(off int64, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse++
	m.most = max(m.most, m.inUse)
	if m.failAt >= off && m.failAt < off+int64(n) {
		return errBroken
	}
	return nil
}

func (m *memory) end() {
	m.mu.Lock()
	m.inUse--
	m.mu.Unlock()
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	defer m.end()
	if err := m.begin(off, len(p)); err != nil {
		return 0, err
	}
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	defer m.end()
	if err := m.begin(off, len(p)); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written += int64(len(p))
	if grow := off + int64(len(p)) - int64(len(m.b)); grow > 0 {
		m.b = append(m.b, make([]byte, grow)...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Zero(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zeroed += n
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Flush() error { m.flushed++; return nil }

func (m *memory) Extents(off, length int64, fn func(off, length int64, zero bool) bool) error {
	if !m.holes {
		fn(off, length, false)
		return nil
	}
	for end := off + length; off < end; {
		n, zero := run(m.b[off:end], off)
		if !fn(off, int64(n), zero) {
			return nil
		}
		off += int64(n)
	}
	return nil
}

// sparse returns n bytes in which runs of zeros and data of odd lengths alternate.
func sparse(t *testing.T, n int) []byte {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("STRATA_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: STRATA_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for off := 0; off < n; {
		run := r.IntN(3*Grain) + 1
		if r.IntN(2) == 0 {
			for i := off; i < min(n, off+run); i++ {
				b[i] = byte(r.Uint32())
			}
		}
		off += run
	}
	return b
}

func TestCopyIsExactAndSparse(t *testing.T) {
	for _, blank := range []bool{true, false} {
		for _, holes := range []bool{true, false} {
			t.Run(fmt.Sprintf("blank=%v,holes=%v", blank, holes), func(t *testing.T) {
				want := sparse(t, 9<<20+1234)
				src, dst := newMemory(want), newMemory(make([]byte, len(want)))
				src.holes = holes
				if !blank {
					for i := range dst.b {
						dst.b[i] = 0xee
					}
				}
				var mu sync.Mutex
				var told int64
				st, err := Copy(t.Context(), dst, src, int64(len(want)), Options{Blank: blank, InFlight: 4, Progress: func(n int64) {
					mu.Lock()
					told += n
					mu.Unlock()
				}})
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst.b, want) {
					t.Fatal("the copy differs")
				}
				if told != st.Bytes || st.Bytes != int64(len(want)) || st.Data != dst.written || dst.flushed != 1 {
					t.Errorf("told %d, stats %+v, written %d, flushed %d", told, st, dst.written, dst.flushed)
				}
				if zeros := zeroGrains(want); dst.written > int64(len(want))-zeros {
					t.Errorf("wrote %d of %d bytes although %d lie in zero grains", dst.written, len(want), zeros)
				}
				if blank && dst.zeroed != 0 {
					t.Errorf("zeroed %d bytes of a blank sink", dst.zeroed)
				}
				if src.most > 4 {
					t.Errorf("%d reads at once, 4 allowed", src.most)
				}
			})
		}
	}
}

func zeroGrains(b []byte) (zeros int64) {
	for off := 0; off < len(b); off += Grain {
		if g := b[off:min(len(b), off+Grain)]; isZero(g) {
			zeros += int64(len(g))
		}
	}
	return zeros
}

func TestCopySurfacesErrors(t *testing.T) {
	b := bytes.Repeat([]byte{1}, 5<<20)
	for name, broken := range map[string]func(src, dst *memory){
		"read":  func(src, _ *memory) { src.failAt = 3 << 20 },
		"write": func(_, dst *memory) { dst.failAt = 3 << 20 },
		"short": func(src, _ *memory) { src.b = src.b[:4<<20] },
	} {
		src, dst := newMemory(b), newMemory(make([]byte, len(b)))
		broken(src, dst)
		_, err := Copy(t.Context(), dst, src, int64(len(b)), Options{})
		if want := errBroken; name != "short" && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if name == "short" && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want an unexpected end", name, err)
		}
		if dst.flushed != 0 || src.inUse != 0 || dst.inUse != 0 {
			t.Errorf("%s: flushed %d times, %d reads and %d writes still run", name, dst.flushed, src.inUse, dst.inUse)
		}
	}
}

func TestCancelledCopyFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := bytes.Repeat([]byte{1}, 8<<20)
	_, err := Copy(ctx, newMemory(make([]byte, len(b))), newMemory(b), int64(len(b)),
		Options{InFlight: 1, Progress: func(int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
