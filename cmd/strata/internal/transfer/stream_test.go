package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestFromStreamGrowsAndIsSparse(t *testing.T) {
	want := sparse(t, 7<<20+77)
	dst := newMemory(nil)
	var end int64
	grow := func(n int64) error {
		if n <= end {
			t.Errorf("grow to %d after %d", n, end)
		}
		end = n
		dst.mu.Lock()
		defer dst.mu.Unlock()
		dst.b = append(dst.b, make([]byte, n-int64(len(dst.b)))...)
		return nil
	}
	st, err := FromStream(t.Context(), dst, iotest.HalfReader(bytes.NewReader(want)), grow, Options{Blank: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dst.b, want) || end != int64(len(want)) || st.Bytes != end || dst.flushed != 1 {
		t.Errorf("copy equal %v, end %d, stats %+v, flushed %d", bytes.Equal(dst.b, want), end, st, dst.flushed)
	}
	if zeros := zeroGrains(want); dst.written > int64(len(want))-zeros {
		t.Errorf("wrote %d of %d bytes although %d lie in zero grains", dst.written, len(want), zeros)
	}
}

func TestFromStreamSurfacesErrors(t *testing.T) {
	noRoom := errors.New("no room")
	input := func() io.Reader { return bytes.NewReader(bytes.Repeat([]byte{1}, 4<<20)) }
	any := func(int64) error { return nil }
	broken := newMemory(nil)
	broken.failAt = 2 << 20
	for name, c := range map[string]struct {
		dst  *memory
		r    io.Reader
		grow func(int64) error
		want error
	}{
		"input":  {newMemory(nil), io.MultiReader(input(), iotest.ErrReader(errBroken)), any, errBroken},
		"output": {broken, input(), any, errBroken},
		"grow":   {newMemory(nil), input(), func(int64) error { return noRoom }, noRoom},
	} {
		if _, err := FromStream(t.Context(), c.dst, c.r, c.grow, Options{}); !errors.Is(err, c.want) || c.dst.flushed != 0 {
			t.Errorf("%s: %v with %d flushes, want %v with none", name, err, c.dst.flushed, c.want)
		}
	}
}

func TestFromStreamStopsWhileInputIsSilent(t *testing.T) {
	r, w := io.Pipe() // nobody writes
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := FromStream(ctx, newMemory(nil), Interruptible(ctx, r), func(int64) error { return nil }, Options{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestToStreamKeepsOrder(t *testing.T) {
	for _, holes := range []bool{true, false} {
		want := sparse(t, 9<<20+5)
		src := newMemory(want)
		src.holes = holes
		var out bytes.Buffer
		st, err := ToStream(t.Context(), &out, src, int64(len(want)), Options{InFlight: 3})
		if err != nil || !bytes.Equal(out.Bytes(), want) || st.Bytes != int64(len(want)) {
			t.Errorf("holes %v: %v, equal %v, stats %+v", holes, err, bytes.Equal(out.Bytes(), want), st)
		}
	}
}

func TestToStreamSurfacesErrors(t *testing.T) {
	src := newMemory(bytes.Repeat([]byte{1}, 6<<20))
	src.failAt = 5 << 20
	if _, err := ToStream(t.Context(), io.Discard, src, 6<<20, Options{}); !errors.Is(err, errBroken) {
		t.Errorf("broken input: %v", err)
	}
	src.failAt = -1
	r, w := io.Pipe()
	r.CloseWithError(errBroken) // the reader of our output has gone
	if _, err := ToStream(t.Context(), w, src, 6<<20, Options{}); !errors.Is(err, errBroken) {
		t.Errorf("broken output: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ToStream(ctx, io.Discard, src, 6<<20, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
