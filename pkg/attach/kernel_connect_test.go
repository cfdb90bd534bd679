//go:build kernelnbd

package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestKernelConnect(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, block := range []int{512, 4096} {
			t.Run(fmt.Sprintf("%s/%d", network, block), func(t *testing.T) {
				k, disk := kernel(t, Config{}), newDisk(1<<20, block)
				d := connect(t, k, serve(t, disk, network).request())
				if d.Index < firstIndex || d.Index > lastIndex {
					t.Errorf("index %d is not of the range", d.Index)
				}
				if d.Size != 1<<20 || d.BlockSize != block || d.ReadOnly || d.Backend != Prefix+"image:1" || d.PID == 0 {
					t.Errorf("device is %+v", d)
				}
				for _, a := range [][3]string{
					{"queue", "io_timeout", "3000"},
					{"queue", "logical_block_size", fmt.Sprint(block)},
					{"queue", "physical_block_size", fmt.Sprint(block)},
				} {
					if got, err := k.attr(d.Index, a[0], a[1]); err != nil || got != a[2] {
						t.Errorf("%s is %q (%v), want %s", a[1], got, err, a[2])
					}
				}
				if s, err := k.attr(d.Index, "queue", "scheduler"); err != nil || s != "none" && !strings.Contains(s, "[none]") {
					t.Errorf("scheduler is %q (%v)", s, err)
				}
				holds(t, d, disk, "hello")
				if n, err := k.Moved(d); err != nil || n < 8192 {
					t.Errorf("moved %d bytes (%v), want 8192 at least", n, err)
				}
				gone(t, k, d)
			})
		}
	}
}

// gone disconnects and checks that nothing of the device is left.
func gone(t *testing.T, k *Kernel, d Device) {
	t.Helper()
	if err := within(t, patience, "disconnect", func() error { return k.Disconnect(t.Context(), d) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk and its node go", func() bool {
		_, disk := os.Stat(k.sys(d.Index))
		_, node := os.Stat(d.Path)
		return errors.Is(disk, fs.ErrNotExist) && errors.Is(node, fs.ErrNotExist)
	})
	if err := k.Disconnect(t.Context(), d); err != nil {
		t.Errorf("disconnect once more: %v", err)
	}
}

func TestKernelReadOnly(t *testing.T) {
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	disk.readOnly = true
	d := connect(t, k, serve(t, disk, "unix").request())
	if !d.ReadOnly {
		t.Error("the device can be written to")
	}
	if err := pwrite(d, 0, "x"); err == nil {
		t.Error("a write succeeded")
	}
}

// An index that was used with a timeout and not destroyed keeps none of it.
func TestKernelStaleTimeout(t *testing.T) {
	const index = 70
	k := kernel(t, Config{First: index, Last: index, IOTimeout: 2 * time.Second})
	old := serve(t, newDisk(1<<20, 512), "unix").request()
	h, err := takeSocket(old.Socket, old.Backend)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for _, m := range []message{
		{cmdConnect, index, func(e *netlink.AttributeEncoder) {
			e.Uint64(attrSize, 1<<20)
			e.Uint64(attrTimeout, 1)
			e.Uint64(attrDeadTimeout, 1)
			sockets(e, h.fd)
		}},
		{cmdDisconnect, index, nil},
	} {
		if err := k.exec(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.setAttr(index, "1000", "queue", "io_timeout"); err != nil {
		t.Fatal(err)
	}
	disk := newDisk(1<<20, 4096)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	if got, _ := k.attr(index, "queue", "io_timeout"); got != "2000" || d.BlockSize != 4096 {
		t.Errorf("io_timeout %s ms and block size %d", got, d.BlockSize)
	}
	slowRead(t, d, s, 3*time.Second)
	s.die()
	reads := make(chan error, 1)
	go func() { _, err := pread(d, 0); reads <- err }()
	select {
	case err := <-reads:
		t.Errorf("a read failed in spite of the dead-connection timeout: %v", err)
	case <-time.After(2 * time.Second):
	}
	gone(t, k, d)
	if err := receive(t, "the read", reads); err == nil {
		t.Error("a read of a device that was ended succeeded")
	}
}

// slowRead checks that a server which takes its time is neither cut off nor asked twice.
func slowRead(t *testing.T, d Device, s *server, takes time.Duration) {
	t.Helper()
	before := s.disk.count("read")
	var once sync.Once
	s.disk.on(func(op string, off int64) {
		if op == "read" && off == 65536 {
			once.Do(func() { <-time.After(takes) })
		}
	})
	defer s.disk.on(nil)
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	scanned := s.disk.count("read") - before
	if err := within(t, patience, "slow read", func() error { _, err := preadFile(f, 65536); return err }); err != nil {
		t.Errorf("slow read: %v", err)
	}
	if n := s.disk.count("read") - before - scanned; n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	if n := s.live(); n != 1 {
		t.Errorf("the server has %d connections, want the one", n)
	}
}

func TestKernelSlowServerIsNotKilled(t *testing.T) {
	k, disk := kernel(t, Config{IOTimeout: 2 * time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "tcp")
	slowRead(t, connect(t, k, s.request()), s, 7*time.Second)
}

// Two processes share a range: nobody gets an index twice, and the last one is told.
func TestKernelIndexRace(t *testing.T) {
	const first, last = 80, 85
	a, b := kernel(t, Config{First: first, Last: last}), kernel(t, Config{First: first, Last: last})
	s := serve(t, newDisk(1<<20, 512), "unix")
	var wg sync.WaitGroup
	got := make(chan Device, last-first+1)
	for i := range last - first + 1 {
		r := s.request()
		r.Backend = backend(i)
		k := []*Kernel{a, b}[i%2]
		wg.Go(func() {
			d, err := k.Connect(context.Background(), r)
			if err != nil {
				t.Error(err)
			}
			got <- d
		})
	}
	wg.Wait()
	close(got)
	seen := map[int]bool{}
	for d := range got {
		if seen[d.Index] || d.Index < first || d.Index > last {
			t.Errorf("index %d", d.Index)
		}
		seen[d.Index] = true
	}
	if n, err := a.Free(); n != 0 || err != nil {
		t.Errorf("%d free (%v), want none", n, err)
	}
	_, err := b.Connect(t.Context(), s.request())
	wantErr(t, err, ErrFull)
	all, err := b.Devices(t.Context())
	if err != nil || len(all) != last-first+1 {
		t.Errorf("%d devices (%v)", len(all), err)
	}
	if err := b.Disconnect(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Free(); n != 1 || err != nil {
		t.Errorf("%d free (%v), want 1", n, err)
	}
}

// What others have connected is not listed, not ended, and not in the way.
func TestKernelForeignDevice(t *testing.T) {
	const index = 90
	k := kernel(t, Config{First: index, Last: index + 1})
	s := serve(t, newDisk(1<<20, 512), "unix")
	r := s.request()
	r.Backend = "other:1"
	h, err := takeSocket(r.Socket, r.Backend)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := k.exec(connectMessage(index, r, time.Hour, h.fd)); err != nil {
		t.Fatal(err)
	}
	defer k.exec(message{cmdDisconnect, index, nil})
	if all, err := k.Devices(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("devices are %v (%v)", all, err)
	}
	foreign := Device{Index: index, Path: k.node(index), Backend: "other:1"}
	if err := k.Disconnect(t.Context(), foreign); err != nil {
		t.Error(err)
	}
	wantErr(t, k.Reconnect(t.Context(), foreign, s.request()), ErrGone)
	wantErr(t, k.Resize(t.Context(), foreign, 2<<20), ErrGone)
	if _, err := os.Stat(k.sys(index, "pid")); err != nil {
		t.Errorf("the other's device has gone: %v", err)
	}
	if d := connect(t, k, s.request()); d.Index != index+1 {
		t.Errorf("index %d", d.Index)
	}
}

func TestKernelRefusesBadRequests(t *testing.T) {
	k, s := kernel(t, Config{}), serve(t, newDisk(1<<20, 512), "unix")
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	bad := s.request()
	bad.Socket.Close()
	bad.Socket = pipe
	if _, err := k.Connect(t.Context(), bad); err == nil {
		t.Error("a pipe was taken")
	}
	if all, err := k.Devices(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("devices are %v (%v)", all, err)
	}
}

func TestKernelSupported(t *testing.T) {
	k := kernel(t, Config{})
	if err := k.Supported(); err != nil {
		t.Errorf("here: %v", err)
	}
	k.cfg.dial = func() (*genetlink.Conn, error) {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
		}
		return genetlink.Dial(nil)
	}
	err := k.Supported()
	wantErr(t, err, ErrUnsupported)
	if !strings.Contains(err.Error(), "hostNetwork") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}
