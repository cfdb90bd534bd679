//go:build kernelnbd

package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/nbd"
)

// A guest runs one test at a time, emulated at worst: bounds are for what must end, not
// for how fast it is.
const patience = 60 * time.Second

// disk is an image in memory. hook runs before each request; it may block.
type disk struct {
	mu       sync.Mutex
	data     []byte
	block    uint32
	readOnly bool
	hook     func(op string, off int64)
	asked    map[string]int
}

func newDisk(size int64, block int) *disk {
	return &disk{data: make([]byte, size), block: uint32(block), asked: map[string]int{}}
}

func (d *disk) before(op string, off int64) {
	d.mu.Lock()
	d.asked[op]++
	hook := d.hook
	d.mu.Unlock()
	if hook != nil {
		hook(op, off)
	}
}

func (d *disk) on(hook func(op string, off int64)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

func (d *disk) count(op string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[op]
}

func (d *disk) grow(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append(d.data, make([]byte, size-int64(len(d.data)))...)
}

func (d *disk) Info() nbd.ExportInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	return nbd.ExportInfo{Size: int64(len(d.data)), MinBlock: d.block, ReadOnly: d.readOnly}
}

func (d *disk) Read(p []byte, off int64) error {
	d.before("read", off)
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:])
	return nil
}

func (d *disk) Write(p []byte, off int64, _ bool) error {
	d.before("write", off)
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}

func (d *disk) Flush() error                     { return nil }
func (d *disk) Trim(_, _ int64, _ bool) error    { return nil }
func (d *disk) Zero(_, _ int64, _, _ bool) error { return nil }
func (d *disk) Cache(_, _ int64) error           { return nil }
func (d *disk) Close() error                     { return nil }
func (d *disk) Extents(_ string, _, n int64, emit func(int64, uint64) bool) error {
	emit(n, 0)
	return nil
}

// server serves a disk; it can die and be started again.
type server struct {
	t    *testing.T
	disk *disk
	addr net.Addr

	mu    sync.Mutex
	conns []*nbd.Conn
	srv   *nbd.Server
	stop  context.CancelFunc
	done  chan error
}

func (s *server) Describe(context.Context, string, *nbd.Conn) (nbd.ExportInfo, error) {
	return s.disk.Info(), nil
}
func (s *server) Contexts(context.Context, string, string, *nbd.Conn) ([]string, error) {
	return nil, nil
}
func (s *server) List(context.Context, *nbd.Conn) ([]nbd.ListEntry, error) { return nil, nil }
func (s *server) Open(_ context.Context, _ string, c *nbd.Conn) (nbd.Export, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return s.disk, nil
}

// serve starts a server of d; network is tcp or unix.
func serve(t *testing.T, d *disk, network string) *server {
	t.Helper()
	s := &server{t: t, disk: d, addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	if network == "unix" {
		s.addr = &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")}
	}
	s.start()
	t.Cleanup(func() { d.on(nil); s.die() })
	return s
}

func (s *server) start() {
	s.t.Helper()
	l, err := net.Listen(s.addr.Network(), s.addr.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr()
	ctx, stop := context.WithCancel(context.Background())
	srv, done := nbd.NewServer(s, nbd.Config{}), make(chan error, 1)
	s.mu.Lock()
	s.srv, s.stop, s.done = srv, stop, done
	s.mu.Unlock()
	go func() { done <- srv.Serve(ctx, l) }()
}

// cut ends all connections without a word.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Cut()
	}
	s.conns = nil
}

// die ends the server the way a crash does.
func (s *server) die() {
	s.mu.Lock()
	stop, srv, done := s.stop, s.srv, s.done
	s.mu.Unlock()
	if stop == nil {
		return
	}
	s.cut()
	stop()
	defer s.ended()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = srv.Close(ctx)
	select {
	case <-done:
	case <-ctx.Done():
		s.t.Error("the server does not end")
	}
}

func (s *server) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = nil
}

func (s *server) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop == nil
}

func (s *server) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.conns {
		select {
		case <-c.Done():
		default:
			n++
		}
	}
	return n
}

// dial makes a Request of a new connection.
func (s *server) dial(ctx context.Context) (Request, error) {
	f, n, err := nbd.DialKernel(ctx, nbd.KernelDial{Target: nbd.Target{Network: s.addr.Network(), Address: s.addr.String()}, Export: "x"})
	if err != nil {
		return Request{}, err
	}
	return Request{Socket: f, Size: n.Size, BlockSize: int(n.MinBlock), Flags: n.Flags, Backend: Prefix + "image:1"}, nil
}

func (s *server) request() Request {
	s.t.Helper()
	r, err := s.dial(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// kernel makes a Kernel for a guest whose devices are all ended after the test. mounted
// makes sure of sysfs and devtmpfs.
func kernel(t *testing.T, cfg Config) *Kernel {
	t.Helper()
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		all, err := k.Devices(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, d := range all {
			if err := k.Disconnect(ctx, d); err != nil {
				t.Error(err)
			}
		}
		if err := k.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return k
}

func connect(t *testing.T, k *Kernel, r Request) Device {
	t.Helper()
	d, err := k.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// pread reads a block from the device past the cache.
func pread(d Device, off int64) ([]byte, error) {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return preadFile(f, off)
}

func preadFile(f *os.File, off int64) ([]byte, error) {
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(buf)
	if _, err := f.ReadAt(buf, off); err != nil {
		return nil, err
	}
	return []byte(string(buf)), nil
}

func pwrite(d Device, off int64, text string) error {
	f, err := os.OpenFile(d.Path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	copy(buf, text)
	_, err = f.WriteAt(buf, off)
	return err
}

// within runs fn and fails the test if it takes longer than the bound.
func within(t *testing.T, bound time.Duration, what string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- fn() }()
	select {
	case err := <-done:
		t.Logf("%s took %v: %v", what, time.Since(start).Round(time.Millisecond), err)
		return err
	case <-time.After(bound):
		t.Fatalf("%s takes longer than %v", what, bound)
		return nil
	}
}

// receive waits for what a goroutine of the test has to tell.
func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case v = <-from:
	case <-limit.C:
		t.Fatalf("%s: nothing within %v", what, patience)
	}
	return v
}

// restore is Restore within bounds.
func restore(t *testing.T, k *Kernel, d Device, dial Dial) {
	t.Helper()
	if err := within(t, patience, "restore", func() error { return k.Restore(t.Context(), d, dial) }); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := until(ctx, 5*time.Millisecond, func() (bool, error) { return cond(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// holds checks that the device serves the disk: a write arrives, a read brings it back.
func holds(t *testing.T, d Device, disk *disk, text string) {
	t.Helper()
	if err := within(t, patience, "write", func() error { return pwrite(d, 8192, text) }); err != nil {
		t.Fatal(err)
	}
	disk.mu.Lock()
	got := string(disk.data[8192 : 8192+len(text)])
	disk.mu.Unlock()
	if got != text {
		t.Fatalf("the server has %q, written was %q", got, text)
	}
	var back []byte
	if err := within(t, patience, "read", func() (err error) { back, err = pread(d, 8192); return err }); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(back), text) {
		t.Fatalf("read back %q, written was %q", back[:len(text)], text)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func backend(n int) string { return fmt.Sprintf("%simage-%d:1", Prefix, n) }
