package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// limitedBackend serves its disks as exports that are asked before each request.
type limitedBackend struct {
	*backend
	admit func(bytes int64) error

	mu    sync.Mutex
	asked []int64
}

func (b *limitedBackend) Open(ctx context.Context, name string, c *Conn) (Export, error) {
	ex, err := b.backend.Open(ctx, name, c)
	if err != nil {
		return nil, err
	}
	return limitedExport{ex, b}, nil
}

type limitedExport struct {
	Export
	b *limitedBackend
}

func (limitedExport) Limits() bool { return true }

func (e limitedExport) Admit(bytes int64) error {
	e.b.mu.Lock()
	e.b.asked = append(e.b.asked, bytes)
	e.b.mu.Unlock()
	if e.b.admit != nil {
		return e.b.admit(bytes)
	}
	return nil
}

// newLimitedRig serves with admit, which may be nil, as the answer to each request.
func newLimitedRig(t *testing.T, admit func(bytes int64) error) (*rig, *limitedBackend) {
	t.Helper()
	r := &rig{t: t, d: newDisk(8 << 20), path: filepath.Join(t.TempDir(), "nbd.sock")}
	b := &limitedBackend{backend: &backend{disks: map[string]*disk{"disk": r.d}}, admit: admit}
	r.srv = NewServer(b, Config{})
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(l)
	return r, b
}

// Each request is asked for once, also one that is served in pieces; a flush never.
func TestLimitedIsAskedOnce(t *testing.T) {
	r, b := newLimitedRig(t, nil)
	c := r.dial()
	big := make([]byte, 1<<20)
	steps := []struct {
		what string
		do   func() error
		want []int64
	}{
		{"a small write", func() error { _, err := c.WriteAt(big[:512], 0); return err }, []int64{512}},
		{"a large write", func() error { _, err := c.WriteAt(big, 0); return err }, []int64{1 << 20}},
		{"a trim that makes a hole", func() error { return c.Trim(256<<10, 256<<10) }, []int64{0}},
		{"a small read", func() error { _, err := c.ReadAt(big[:512], 0); return err }, []int64{512}},
		{"a large read over a hole", func() error { _, err := c.ReadAt(big, 0); return err }, []int64{1 << 20}},
		{"a write of zeroes", func() error { return c.Zero(0, 4096, false) }, []int64{0}},
		{"a flush", c.Flush, nil},
	}
	for _, s := range steps {
		b.mu.Lock()
		b.asked = nil
		b.mu.Unlock()
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.what, err)
		}
		b.mu.Lock()
		if !slices.Equal(b.asked, s.want) {
			t.Errorf("%s is asked for as %v, want %v", s.what, b.asked, s.want)
		}
		b.mu.Unlock()
	}
}

// A refusal is the answer, and nothing reaches the export.
func TestLimitedRefuses(t *testing.T) {
	r, _ := newLimitedRig(t, func(int64) error { return fmt.Errorf("no: %w", ESHUTDOWN) })
	c := r.dial()
	big := make([]byte, 1<<20)
	for _, n := range []int{512, 1 << 20} {
		if _, err := c.WriteAt(big[:n], 0); !errors.Is(err, ESHUTDOWN) {
			t.Errorf("a write of %d bytes answers %v", n, err)
		}
		if _, err := c.ReadAt(big[:n], 0); !errors.Is(err, ESHUTDOWN) {
			t.Errorf("a read of %d bytes answers %v", n, err)
		}
	}
	if n := r.d.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the export", n)
	}
	if err := c.Flush(); err != nil {
		t.Errorf("a flush: %v", err)
	}
}
