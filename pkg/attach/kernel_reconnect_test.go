//go:build kernelnbd

package attach

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The server dies with a read under way and one waiting; after the reconnect both come
// back with data, the first within the I/O timeout.
func TestKernelReconnectReplays(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			const timer = 2 * time.Second
			k, disk := kernel(t, Config{IOTimeout: timer}), newDisk(1<<20, 512)
			copy(disk.data[65536:], "under way")
			s := serve(t, disk, network)
			d := connect(t, k, s.request())
			holds(t, d, disk, "before")

			reached, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			disk.on(func(op string, off int64) {
				if off == 65536 {
					once.Do(func() { close(reached); <-release })
				}
			})
			f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			inFlight, waiting := make(chan string, 1), make(chan error, 1)
			go func() {
				b, err := preadFile(f, 65536)
				inFlight <- fmt.Sprintf("%.9s %v", b, err)
			}()
			receive(t, "a request at the server", reached)
			s.cut()
			close(release)
			s.die()
			go func() { waiting <- pwrite(d, 4096, "while it was dead") }()
			s.start()
			restore(t, k, d, s.dial)
			back := time.Now()
			if err := receive(t, "the waiting write", waiting); err != nil {
				t.Errorf("waiting write: %v", err)
			}
			if got := receive(t, "the read under way", inFlight); got != "under way <nil>" {
				t.Errorf("the read under way brought %q", got)
			}
			if took := time.Since(back); took > 2*timer {
				t.Errorf("the read under way took %v after the reconnect", took)
			}
			if got, _ := k.attr(d.Index, "queue", "io_timeout"); got != "2000" {
				t.Errorf("io_timeout is %s after the reconnect", got)
			}
			holds(t, d, disk, "after")
		})
	}
}

// A process that does not hold the old socket offers a new one while the old lives: the
// kernel drops it, which is noticed, and the device goes on as it was.
func TestKernelDroppedSocketIsNoticed(t *testing.T) {
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	hasty, later := kernel(t, Config{AdoptTimeout: 200 * time.Millisecond}), kernel(t, Config{AdoptTimeout: patience})
	if held, err := later.Holds(t.Context(), d); held || err != nil {
		t.Errorf("holds: %t, %v", held, err)
	}
	err := within(t, patience, "reconnect", func() error { return hasty.Reconnect(t.Context(), d, s.request()) })
	wantErr(t, err, ErrNotAdopted)
	eventually(t, "the dropped connection ends", func() bool { return s.live() == 1 })
	holds(t, d, disk, "still the old one")

	r := s.request()
	s.mu.Lock()
	old := s.conns[0]
	s.mu.Unlock()
	time.AfterFunc(100*time.Millisecond, old.Cut)
	if err := within(t, patience, "reconnect", func() error { return later.Reconnect(t.Context(), d, r) }); err != nil {
		t.Fatal(err)
	}
	if held, err := later.Holds(t.Context(), d); !held || err != nil {
		t.Errorf("holds: %t, %v", held, err)
	}
	holds(t, d, disk, "the new one")
}

// Closing and reconnecting back to back never loses a socket unnoticed.
func TestKernelReconnectBackToBack(t *testing.T) {
	rounds := 60
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	later := kernel(t, Config{})
	for i := range rounds {
		r := s.request()
		s.mu.Lock()
		s.conns[len(s.conns)-2].Cut()
		s.mu.Unlock()
		if err := later.Reconnect(t.Context(), d, r); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if err := within(t, patience, "read", func() error { _, err := pread(d, 0); return err }); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	if n := s.live(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// Replacing a connection that works, under load: nothing fails, nothing is lost.
func TestKernelReplaceUnderLoad(t *testing.T) {
	k, disk := kernel(t, Config{IOTimeout: 2 * time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "tcp")
	d := connect(t, k, s.request())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				text := fmt.Sprintf("worker %d round %d", w, n)
				off := int64(w) * 16384
				if err := pwrite(d, off, text); err != nil {
					t.Errorf("%s: %v", text, err)
					return
				}
				if b, err := pread(d, off); err != nil || string(b[:len(text)]) != text {
					t.Errorf("%s came back as %q (%v)", text, b, err)
					return
				}
			}
		})
	}
	for range 3 {
		if err := within(t, patience, "replace", func() error { return k.Replace(t.Context(), d, s.dial) }); err != nil {
			t.Error(err)
		}
		eventually(t, "the old connection ends", func() bool { return s.live() == 1 })
	}
	cancel()
	wg.Wait()
	if all, err := k.Devices(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("devices are %v (%v)", all, err)
	}
}

// A server that cannot be reached does not make an outage of a planned replacement.
func TestKernelReplaceNeedsServer(t *testing.T) {
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	refused := fmt.Errorf("not today")
	err := k.Replace(ctx, d, func(context.Context) (Request, error) { return Request{}, refused })
	wantErr(t, err, refused)
	wantErr(t, err, context.DeadlineExceeded)
	holds(t, d, disk, "still here")
}

// The kernel insists on the backend identifier, and so does this package.
func TestKernelBackendMustRepeat(t *testing.T) {
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	s.cut()
	r := s.request()
	h, err := takeSocket(r.Socket, r.Backend)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	err = k.exec(message{cmdReconfigure, d.Index, func(e *netlink.AttributeEncoder) { sockets(e, h.fd) }})
	wantErr(t, err, unix.EINVAL)
	other := d
	other.Backend = backend(2)
	err = k.exec(reconnectMessage(other, time.Hour, false, h.fd, h.fd))
	wantErr(t, err, unix.EINVAL)
	wantErr(t, k.Reconnect(t.Context(), other, s.request()), ErrGone)
	if err := k.Reconnect(t.Context(), d, s.request()); err != nil {
		t.Fatal(err)
	}
	holds(t, d, disk, "right name")
}

func TestKernelDeadTimeout(t *testing.T) {
	k := kernel(t, Config{DeadTimeout: time.Second})
	s := serve(t, newDisk(1<<20, 512), "unix")
	d := connect(t, k, s.request())
	s.die()
	err := within(t, patience, "read of a dead device", func() error { _, err := pread(d, 0); return err })
	wantErr(t, err, unix.EIO)
	s.start()
	restore(t, k, d, s.dial)
	holds(t, d, s.disk, "revived")
}
