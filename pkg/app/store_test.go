package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"

	"github.com/strata-csi/strata/pkg/nbd"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
	"github.com/strata-csi/strata/pkg/storeapi"
)

// running is a store process in this process.
type running struct {
	t       *testing.T
	cancel  context.CancelFunc
	ended   chan error
	serving Serving
}

// startStore starts a store, or returns the error with which it ended.
func startStore(t *testing.T, cfg Config) (*running, error) {
	t.Helper()
	cfg.AllowUnsafe = true
	ready := make(chan Serving, 1)
	cfg.Ready = func(s Serving) { ready <- s }
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	r := &running{t: t, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- Store(ctx, cfg) }()
	select {
	case r.serving = <-ready:
		return r, nil
	case err := <-r.ended:
		cancel()
		return nil, err
	}
}

func mustStart(t *testing.T, cfg Config) *running {
	t.Helper()
	r, err := startStore(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Errorf("stop: %v", err)
	}
}

func dial(t *testing.T, addr string) *storeapi.Client {
	t.Helper()
	c, err := storeapi.Dial(addr, storeapi.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// newImage makes an image of 1 MiB, named img, and opens it.
func newImage(t *testing.T, c *storeapi.Client) (store.Info, store.Device) {
	t.Helper()
	img, err := c.Create(t.Context(), store.Spec{Name: "img", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Open(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	return img, d
}

// onMemory serves a store that keeps its images in memory, and connects to it.
func onMemory(t *testing.T) (dir string, mem *memstore.Store, r *running, c *storeapi.Client) {
	t.Helper()
	dir, mem = shortDir(t), memstore.New()
	r = mustStart(t, Config{Data: dir, Backend: func(string) (store.Full, error) { return mem, nil }})
	return dir, mem, r, dial(t, dir)
}

// TestStoreProcess: a fresh directory, served, stopped and served again.
func TestStoreProcess(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	r := mustStart(t, Config{Data: dir, Node: "n1", Init: true, NBD: []string{"127.0.0.1:0"}, API: []string{"127.0.0.1:0"}, OpenTCP: true})
	c := dial(t, dir)
	img, d := newImage(t, c)
	want := bytes.Repeat([]byte("strata"), 700)
	if _, err := d.WriteAt(want, 12345); err != nil {
		t.Fatal(err)
	}
	for _, uri := range r.serving.NBD {
		n, err := nbd.Dial(t.Context(), strings.Replace(uri, ":///", ":///ro/img", 1)+suffix(uri))
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		n.Close()
	}
	if len(r.serving.API) != 2 || len(r.serving.NBD) != 2 {
		t.Errorf("serving %+v", r.serving)
	}
	if st, err := dial(t, r.serving.API[1]).Status(t.Context()); err != nil || st.UUID != r.serving.UUID || st.Node != "n1" {
		t.Errorf("API on TCP: %+v, %v", st, err)
	}
	r.stop() // with a client connected, whose write was answered
	for _, name := range []string{apiSocket, nbdSocket} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", name, err)
		}
	}
	again := mustStart(t, Config{Data: dir, NBD: []string{"127.0.0.1:0"}, API: []string{"127.0.0.1:0"}, OpenTCP: true})
	defer again.stop()
	if again.serving.UUID != r.serving.UUID {
		t.Errorf("the store %s became %s", r.serving.UUID, again.serving.UUID)
	}
	c2 := dial(t, dir)
	d2, err := c2.Open(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer d2.Close()
	got := make([]byte, len(want))
	if _, err := d2.ReadAt(got, 12345); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was written is gone (%v)", err)
	}
	if err := d2.Close(); err != nil {
		t.Error(err)
	}
	tcp, err := dial(t, again.serving.API[1]).Open(t.Context(), img.ID)
	if err != nil {
		t.Fatalf("API and NBD by TCP: %v", err)
	}
	defer tcp.Close()
	if _, err := tcp.ReadAt(got, 12345); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read by TCP differs (%v)", err)
	}
}

// suffix puts the export's name behind a TCP address; the unix one has it already.
func suffix(uri string) string {
	if strings.HasPrefix(uri, "nbd://") {
		return "ro/img"
	}
	return ""
}

func TestStoreRefusesToStart(t *testing.T) {
	dir := shortDir(t)
	data := filepath.Join(dir, "data")
	mustStart(t, Config{Data: data, Init: true}).stop()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  Config
		is   error
		text string
	}{
		"missing":      {Config{Data: filepath.Join(dir, "none")}, store.ErrNotFound, "--init"},
		"empty":        {Config{Data: empty}, store.ErrNotFound, "--init"},
		"a file":       {Config{Data: file}, store.ErrInvalid, "is a file"},
		"init twice":   {Config{Data: data, Init: true}, store.ErrConflict, data},
		"bad unit":     {Config{Data: data, AllocUnit: 12 << 10}, store.ErrInvalid, "power of two"},
		"bad address":  {Config{Data: data, NBD: []string{"x"}}, store.ErrInvalid, `"x"`},
		"open API":     {Config{Data: data, API: []string{"0.0.0.0:1"}}, store.ErrInvalid, "other machines"},
		"busy address": {Config{Data: data, NBD: []string{"unix:" + file}}, store.ErrConflict, file},
	} {
		r, err := startStore(t, c.cfg)
		if err == nil {
			r.stop()
		}
		if !errors.Is(err, c.is) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v; want %v with %q", name, err, c.is, c.text)
		}
	}
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Errorf("an empty directory now holds %v", left)
	}
	mustStart(t, Config{Data: data}).stop() // nothing was harmed, nothing is locked
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := shortDir(t)
	r := mustStart(t, Config{Data: dir, Init: true})
	defer r.stop()
	_, err := startStore(t, Config{Data: dir})
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if _, err := dial(t, dir).Status(t.Context()); err != nil {
		t.Errorf("the first process was harmed: %v", err)
	}
}

// stubborn is a store that cannot be closed.
type stubborn struct {
	*memstore.Store
	release chan struct{}
}

func (s stubborn) Close() error { <-s.release; return s.Store.Close() }

func TestStopIsBounded(t *testing.T) {
	dir := shortDir(t)
	s := stubborn{memstore.New(), make(chan struct{})}
	defer close(s.release)
	r := mustStart(t, Config{Data: dir, Stop: 50 * time.Millisecond, Backend: func(string) (store.Full, error) { return s, nil }})
	r.cancel()
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "stop backend") || !strings.Contains(err.Error(), "not done after 50ms") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, apiSocket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what could be tidied up was not: %v", err)
	}
}

// endless is a store whose jobs never end.
type endless struct {
	*memstore.Store
	watched chan struct{}
}

func (e endless) WatchJob(ctx context.Context, _ string, _ func(store.Job) error) error {
	close(e.watched)
	<-ctx.Done()
	return ctx.Err()
}

func TestStopCutsStreams(t *testing.T) {
	e := endless{memstore.New(), make(chan struct{})}
	dir := shortDir(t)
	r := mustStart(t, Config{Data: dir, Stop: 300 * time.Millisecond, Backend: func(string) (store.Full, error) { return e, nil }})
	c := dial(t, dir)
	watch := make(chan error, 1)
	go func() { watch <- c.WatchJob(t.Context(), "j", func(store.Job) error { return nil }) }()
	<-e.watched
	r.stop()
	if err := <-watch; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the watcher gets %v", err)
	}
}

// TestPublishGoesThroughTheRegistry: withdrawing a right cuts who is attached.
func TestPublishGoesThroughTheRegistry(t *testing.T) {
	dir, _, r, c := onMemory(t)
	defer r.stop()
	img, d := newImage(t, c)
	if _, err := c.Publish(t.Context(), img.ID, "node", store.AccessWrite); !errors.Is(err, store.ErrInUse) {
		t.Errorf("publish while a client writes: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := c.Publish(t.Context(), img.ID, "node", store.AccessWrite)
	if err != nil {
		t.Fatal(err)
	}
	target := nbd.Target{Network: "unix", Address: filepath.Join(dir, nbdSocket), Export: fmt.Sprintf("pub/%s/%d/%s/1", p.ID, p.Epoch, p.Token)}
	n, err := nbd.Dial(t.Context(), target.String())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := c.Unpublish(t.Context(), img.ID, "node"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WriteAt(make([]byte, 4096), 0); err == nil {
		t.Error("a write after Unpublish was answered")
	}
	if pubs, err := c.Publications(t.Context(), ""); err != nil || len(pubs) != 0 {
		t.Errorf("publications %v, %v", pubs, err)
	}
	if st, err := c.Status(t.Context()); err != nil || len(r.serving.UUID) == 0 || becomeIOFlusher() != nil && len(st.Warnings) == 0 {
		t.Errorf("status %+v, %v", st, err)
	}
}
