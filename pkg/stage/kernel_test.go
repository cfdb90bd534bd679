//go:build kernelnbd

package stage_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// writer writes to a file and reads it back until it is stopped.
type writer struct {
	stop   chan struct{}
	done   chan error
	rounds atomic.Int64
	gap    atomic.Int64 // longest round, in nanoseconds
}

func write(path string) *writer {
	w := &writer{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { w.done <- w.run(path) }()
	return w
}

func (w *writer) run(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, 64<<10)
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		began := time.Now()
		want := bytes.Repeat([]byte{byte(n)}, len(got))
		off := int64(n%16) * int64(len(got))
		if _, err := f.WriteAt(want, off); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := unix.Fadvise(int(f.Fd()), off, int64(len(got)), unix.FADV_DONTNEED); err != nil {
			return err
		}
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("round %d: read back: %v, equal %v", n, err, bytes.Equal(got, want))
		}
		w.rounds.Add(1)
		w.gap.Store(max(w.gap.Load(), int64(time.Since(began))))
	}
}

// goOn waits until the writer has done some more.
func (w *writer) goOn(h *host) {
	h.t.Helper()
	from := w.rounds.Load()
	h.until("the writer goes on", func() bool { return w.rounds.Load() > from+3 })
}

func (w *writer) end() error {
	close(w.stop)
	return <-w.done
}

func TestKernelLife(t *testing.T) {
	for _, fs := range []string{"ext4", "ext3", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			h, ctx := newHost(t, "unix", nil), t.Context()
			c := stage.Capability{FS: fs}
			req := h.create(store.Spec{Name: "a", Size: 320 * mib}, c)
			h.must(h.svc.Stage(ctx, req))
			pub := h.publish(req, "a")
			h.must(h.svc.Publish(ctx, pub))
			content := bytes.Repeat([]byte("strata "), 20000)
			h.must(os.WriteFile(filepath.Join(pub.Target.Path, "file"), content, 0o600))
			syncFS(t, pub.Target.Path)
			snap, err := h.disk.Snapshot(ctx, req.Ticket.Image, "s")
			h.must(err)
			h.must(os.WriteFile(filepath.Join(pub.Target.Path, "file"), []byte("changed"), 0o600))

			twin := h.create(store.Spec{Name: "b", Size: 640 * mib, Parent: snap.ID}, c)
			h.must(h.svc.Stage(ctx, twin))
			ro := h.ask(snap.ID, store.AccessScratch, stage.Capability{FS: fs, ReadOnly: true})
			h.must(h.svc.Stage(ctx, ro))
			for _, r := range []stage.Request{twin, ro} {
				got, err := os.ReadFile(filepath.Join(r.Path, "file"))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s holds something else (%v)", r.Volume, err)
				}
			}
			if a, b := size(t, req.Path), size(t, twin.Path); b < a+256*mib {
				t.Errorf("the clone's file system has %d bytes, its source's %d", b, a)
			}
			before := size(t, req.Path)
			_, err = h.disk.Resize(ctx, req.Ticket.Image, 480*mib)
			h.must(err)
			_, err = h.svc.Expand(ctx, req.Volume, pub.Target.Path, 480*mib)
			h.must(err)
			if n := size(t, pub.Target.Path); n < before+128*mib {
				t.Errorf("expanded from %d to %d", before, n)
			}
			h.must(os.WriteFile(filepath.Join(pub.Target.Path, "more"), bytes.Repeat([]byte{7}, 8<<20), 0o600))
			syncFS(t, pub.Target.Path)
		})
	}
}

// The store is killed again and again under a writer, and comes back, over TCP under
// another address each time.
func TestKernelStoreKilled(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHost(t, network, nil)
			req := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{})
			h.must(h.svc.Stage(t.Context(), req))
			w := write(filepath.Join(req.Path, "file"))
			for n := range 5 {
				w.goOn(h)
				h.forgetEvents()
				h.kill()
				h.await(stage.LinkLost, req.Volume)
				if n%2 == 1 {
					h.await(stage.LinkRetry, req.Volume)
				}
				h.start(network)
				h.await(stage.LinkBack, req.Volume)
			}
			w.goOn(h)
			h.must(w.end())
			t.Logf("%d rounds, longest gap %v", w.rounds.Load(), time.Duration(w.gap.Load()))
		})
	}
}

// The node's process ends and starts again: I/O does not notice, and what happens to the
// store next is noticed.
func TestKernelNodeRestarted(t *testing.T) {
	h := newHost(t, "unix", nil)
	req := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{})
	h.must(h.svc.Stage(t.Context(), req))
	w := write(filepath.Join(req.Path, "file"))
	for range 3 {
		w.goOn(h)
		h.restartNode()
	}
	w.goOn(h)
	gap := time.Duration(w.gap.Load())
	t.Logf("%d rounds, longest gap %v", w.rounds.Load(), gap)
	if n := h.count(stage.LinkLost) + h.count(stage.LinkBack); n > 0 || gap > 1500*time.Millisecond {
		t.Errorf("I/O noticed: gap %v, events %v", gap, h.kinds())
	}
	h.kill()
	h.start("unix")
	h.await(stage.LinkBack, req.Volume)
	w.goOn(h)
	// Killed and started while no node process is there.
	h.close()
	h.must(h.kernel.Close(t.Context()))
	h.forgetEvents()
	h.kill()
	h.start("unix")
	h.newKernel()
	h.open()
	w.goOn(h)
	h.must(w.end())
}

// The right is withdrawn under a writer: its I/O ends in errors, nothing hangs, and what
// it writes afterwards never reaches the image. Then the volume is staged anew.
func TestKernelFenced(t *testing.T) {
	h, ctx := newHost(t, "unix", nil), t.Context()
	req := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{})
	h.must(h.svc.Stage(ctx, req))
	w := write(filepath.Join(req.Path, "file"))
	w.goOn(h)
	h.must(h.reg.Unpublish(ctx, req.Ticket.Image, ""))
	frozen, err := h.disk.Snapshot(ctx, req.Ticket.Image, "at the answer")
	h.must(err)
	h.await(stage.Fenced, req.Volume)
	select {
	case err := <-w.done:
		if err == nil {
			t.Error("the writer saw no error")
		}
		t.Logf("the writer ended with %v", err)
	case <-time.After(patience):
		t.Fatal("the writer hangs")
	}
	h.must(h.disk.Diff(ctx, frozen.ID, req.Ticket.Image, func(e store.Extent) error {
		if e.Changed {
			t.Errorf("bytes %d to %d were written after the answer", e.Offset, e.Offset+e.Length)
		}
		return nil
	}))
	wantErr(t, h.svc.Stage(ctx, req), store.ErrFenced, "withdrawn")
	h.must(h.svc.Unstage(ctx, req.Volume, req.Path))
	again := h.ask(req.Ticket.Image, store.AccessWrite, stage.Capability{})
	h.must(h.svc.Stage(ctx, again))
	h.must(os.WriteFile(filepath.Join(again.Path, "new"), []byte("x"), 0o600))
}

// Links are replaced under load.
func TestKernelRenewal(t *testing.T) {
	h := newHost(t, "tcp", func(c *stage.Config) { c.KeyLimit = 4 * mib })
	req := h.create(store.Spec{Name: "a", Size: 64 * mib}, stage.Capability{})
	h.must(h.svc.Stage(t.Context(), req))
	w := write(filepath.Join(req.Path, "file"))
	h.until("three renewals", func() bool { return h.count(stage.LinkRenewed) >= 3 })
	w.goOn(h)
	h.must(w.end())
	t.Logf("%d rounds, longest gap %v", w.rounds.Load(), time.Duration(w.gap.Load()))
}

// faulty is a server that answers reads with errors where it is told to.
type faulty struct {
	nbd.Backend
	bad func(off int64) bool
}

func (f faulty) Open(ctx context.Context, name string, c *nbd.Conn) (nbd.Export, error) {
	e, err := f.Backend.Open(ctx, name, c)
	if err != nil {
		return nil, err
	}
	return faultyExport{e, f.bad}, nil
}

type faultyExport struct {
	nbd.Export
	bad func(off int64) bool
}

func (f faultyExport) Read(p []byte, off int64) error {
	for o := off; o < off+int64(len(p)); o += 4096 {
		if f.bad(o) {
			return nbd.EIO
		}
	}
	return f.Export.Read(p, off)
}

// A device that answers with errors during the probe is never formatted.
func TestKernelFaultyDevice(t *testing.T) {
	const end = 64 * mib
	for name, bad := range map[string]func(off int64) bool{
		"all":               func(int64) bool { return true },
		"first block":       func(off int64) bool { return off == 0 },
		"last block":        func(off int64) bool { return off == end-4096 },
		"64 KiB, once read": func(off int64) bool { return off == 64<<10 },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "unix", nil)
			h.kill()
			h.wrap = func(b nbd.Backend) nbd.Backend { return faulty{b, bad} }
			h.start("unix")
			req := h.create(store.Spec{Name: "a", Size: end}, stage.Capability{})
			err := h.svc.Stage(t.Context(), req)
			wantErr(t, err, stage.ErrProbe, "Input/output error")
			if info, e := h.disk.Stat(t.Context(), req.Ticket.Image); e != nil || info.Format != store.FormatNone || h.formats() > 0 {
				t.Errorf("format %q, mkfs ran %d times (%v)", info.Format, h.formats(), e)
			}
			if u, _ := h.disk.Usage(t.Context(), req.Ticket.Image); u.Own > 0 {
				t.Errorf("%d bytes were written", u.Own)
			}
		})
	}
}

// Many devices resume together.
func TestKernelManyResume(t *testing.T) {
	const many = 50
	h, ctx := newHost(t, "unix", nil), t.Context()
	var reqs []stage.Request
	for n := range many {
		req := h.create(store.Spec{Name: fmt.Sprint("i", n), Size: mib}, stage.Capability{Block: true})
		h.must(h.svc.Stage(ctx, req))
		reqs = append(reqs, req)
	}
	h.kill()
	for _, req := range reqs {
		h.await(stage.LinkLost, req.Volume)
	}
	began := time.Now()
	h.start("unix")
	for _, req := range reqs {
		h.await(stage.LinkBack, req.Volume)
	}
	t.Logf("%d devices resumed in %v", many, time.Since(began))
}
