//go:build kernelnbd

package attach

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A server that reads requests and never answers: Disconnect is bounded, and who waits
// for an answer gets an error.
func TestKernelDisconnectUnansweredServer(t *testing.T) {
	k, disk := kernel(t, Config{}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer close(release)
	disk.on(func(string, int64) {
		once.Do(func() { close(reached) })
		<-release
	})
	read := make(chan error, 1)
	go func() { _, err := pread(d, 65536); read <- err }()
	receive(t, "a request at the server", reached)
	if err := within(t, patience, "disconnect", func() error { return k.Disconnect(t.Context(), d) }); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "the read", read); err == nil {
		t.Error("the read succeeded")
	}
}

// stuffed connects a device to a server that does the handshake and then never reads,
// and writes until the kernel's sender hangs.
func stuffed(t *testing.T, k *Kernel) (d Device, server int, writers *sync.WaitGroup) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d = connect(t, k, Request{Socket: os.NewFile(uintptr(fds[0]), "kernel's end"), Size: 64 << 20, BlockSize: 4096, Flags: 1, Backend: backend(9)})
	writers = &sync.WaitGroup{}
	for i := range 8 {
		writers.Go(func() {
			fd, err := unix.Open(d.Path, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
			if err != nil {
				return // the partition scan of the first open fails in the end
			}
			defer unix.Close(fd)
			buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Munmap(buf)
			if _, err := unix.Pwrite(fd, buf, int64(i)<<20); err == nil {
				t.Error("a write succeeded")
			}
		})
	}
	return d, fds[1], writers
}

// answerScan answers the read of the partition scan, so that the device can be opened.
func answerScan(t *testing.T, server int, d Device) {
	t.Helper()
	request := make([]byte, 28)
	for {
		if n, err := unix.Read(server, request); err != nil || n != len(request) {
			t.Errorf("request: %d bytes, %v", n, err)
			return
		}
		if request[7] != 0 { // the first write: read no further
			return
		}
		length := int(request[24])<<24 | int(request[25])<<16 | int(request[26])<<8 | int(request[27])
		reply := make([]byte, 16+length)
		copy(reply, []byte{0x67, 0x44, 0x66, 0x98})
		copy(reply[8:16], request[8:16])
		if _, err := unix.Write(server, reply); err != nil {
			t.Error(err)
			return
		}
	}
}

// The kernel hangs in a send. With the socket held, Disconnect cuts it; without, it
// gives up and leaves the device to the end of the server.
func TestKernelDisconnectHungSend(t *testing.T) {
	t.Run("held", func(t *testing.T) {
		k := kernel(t, Config{})
		d, server, writers := stuffed(t, k)
		defer unix.Close(server)
		answerScan(t, server, d)
		if err := within(t, patience, "disconnect", func() error { return k.Disconnect(t.Context(), d) }); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
	})
	t.Run("not held", func(t *testing.T) {
		k := kernel(t, Config{})
		other := connect(t, k, serve(t, newDisk(1<<20, 512), "unix").request())
		d, server, writers := stuffed(t, k)
		answerScan(t, server, d)
		eventually(t, "writes are under way", func() bool { busy, _ := k.busy(d.Index); return busy })
		later := kernel(t, Config{CallTimeout: 500 * time.Millisecond})
		err := within(t, patience, "disconnect", func() error { return later.Disconnect(t.Context(), d) })
		wantErr(t, err, ErrStuck)
		err = within(t, patience, "disconnect again", func() error { return later.Disconnect(t.Context(), d) })
		wantErr(t, err, ErrStuck)
		if err := within(t, patience, "write to another", func() error { return pwrite(other, 0, "others work") }); err != nil {
			t.Error(err)
		}
		unix.Close(server)
		writers.Wait()
		eventually(t, "the device goes", func() bool { return later.Disconnect(t.Context(), d) == nil })
	})
}

// Whoever has the device open gets errors and keeps the index busy until it is closed.
func TestKernelDisconnectWhileOpen(t *testing.T) {
	k := kernel(t, Config{})
	s := serve(t, newDisk(1<<20, 512), "unix")
	d := connect(t, k, s.request())
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	wantErr(t, k.Disconnect(ctx, d), ErrInUse)
	if _, err := preadFile(f, 0); err == nil {
		t.Error("a read succeeded")
	}
	f.Close()
	gone(t, k, d)
}

// Requests wait for a reconnect; Disconnect does not wait for them.
func TestKernelDisconnectDeadDevice(t *testing.T) {
	k := kernel(t, Config{})
	s := serve(t, newDisk(1<<20, 512), "tcp")
	d := connect(t, k, s.request())
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.die()
	read := make(chan error, 1)
	go func() {
		defer f.Close()
		_, err := preadFile(f, 65536)
		read <- err
	}()
	eventually(t, "the end is seen", func() bool { return k.slots[d.Index].sock.hungUp() })
	if err := within(t, patience, "disconnect", func() error { return k.Disconnect(t.Context(), d) }); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "the read", read); err == nil {
		t.Error("the read succeeded")
	}
}

func TestKernelWatch(t *testing.T) {
	k := kernel(t, Config{Poll: time.Hour})
	s := serve(t, newDisk(1<<20, 512), "tcp")
	ctx, cancel := context.WithCancel(t.Context())
	reports, ended := make(chan int, 100), make(chan struct{})
	go func() {
		defer close(ended)
		k.Watch(ctx, func(index int) { reports <- index })
	}()
	// The watch may not have begun when the first connection ends.
	var d Device
	eventually(t, "a report", func() bool {
		d = connect(t, k, s.request())
		s.cut()
		select {
		case index := <-reports:
			if index != d.Index {
				t.Errorf("report of nbd%d, want nbd%d", index, d.Index)
			}
			return true
		case <-time.After(time.Second):
			gone(t, k, d)
			return false
		}
	})
	restore(t, k, d, s.dial)
	holds(t, d, s.disk, "reported and restored")
	cancel()
	receive(t, "the end of Watch", ended)
}
