//go:build kernelnbd

package attach

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
)

func TestKernelResize(t *testing.T) {
	k, disk := kernel(t, Config{QuietTimeout: 500 * time.Millisecond}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	if err := k.Resize(t.Context(), d, 1<<19); err == nil {
		t.Error("it shrank")
	}
	disk.grow(4 << 20)
	// The server goes by the size of the handshake; a new one tells it. The kernel's
	// size does not change with that.
	if err := k.Replace(t.Context(), d, s.dial); err != nil {
		t.Fatal(err)
	}
	wantSize(t, k, 1<<20)
	for range 2 {
		if err := k.Resize(t.Context(), d, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	wantSize(t, k, 4<<20)
	if err := pwrite(d, 4<<20-4096, "at the end"); err != nil {
		t.Error(err)
	}
	if err := k.Replace(t.Context(), d, s.dial); err != nil {
		t.Fatal(err)
	}
	wantSize(t, k, 4<<20)
}

func wantSize(t *testing.T, k *Kernel, size int64) {
	t.Helper()
	all, err := k.Devices(t.Context())
	if err != nil || len(all) != 1 || all[0].Size != size || all[0].BlockSize != 512 {
		t.Errorf("devices are %v (%v), want one of size %d and block size 512", all, err, size)
	}
}

// A request that is not answered is no time to resize, nor is the end of the connection.
func TestKernelResizeNeedsHealth(t *testing.T) {
	k, disk := kernel(t, Config{QuietTimeout: 500 * time.Millisecond, CallTimeout: time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	resize := func() error {
		return within(t, patience, "resize", func() error { return k.Resize(t.Context(), d, 2<<20) })
	}
	held, reached := make(chan struct{}), make(chan struct{})
	disk.on(func(op string, _ int64) {
		if op == "write" {
			close(reached)
			<-held
		}
	})
	wrote := make(chan error, 1)
	go func() { wrote <- pwrite(d, 0, "held back") }()
	receive(t, "a request at the server", reached)
	wantErr(t, resize(), ErrUnhealthy)

	// What Resize avoids: newer kernels wait for the write, older ones do not mind.
	_, leave, err := k.enter(t.Context(), d.Index)
	if err != nil {
		t.Fatal(err)
	}
	err = within(t, patience, "bare resize", func() error {
		return k.call(t.Context(), resizeMessage(d, 2<<20), func(error, bool) {})
	})
	leave()
	if err != nil {
		wantErr(t, err, ErrStuck)
		wantErr(t, within(t, patience, "reconnect", func() error { return k.Reconnect(t.Context(), d, s.request()) }), ErrStuck)
	}
	close(held)
	if err := receive(t, "the write", wrote); err != nil {
		t.Error(err)
	}
	eventually(t, "the size arrives", func() bool { now, err := k.same(d); return err == nil && now.Size == 2<<20 })
	s.die()
	eventually(t, "the end is seen", func() bool { return k.slots[d.Index].sock.hungUp() })
	wantErr(t, k.Resize(t.Context(), d, 8<<20), ErrUnhealthy)
}

// The server dies while a newer kernel waits for its answers to change the size. Within
// bounds the device can be had again, and its settings are what they were.
func TestKernelResizeCaught(t *testing.T) {
	k, disk := kernel(t, Config{CallTimeout: time.Second, armed: 2 * time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	holds(t, d, disk, "before")
	held, reached, wrote := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var first sync.Once
	disk.on(func(op string, _ int64) {
		if op == "write" {
			first.Do(func() { close(reached); <-held })
		}
	})
	var dials atomic.Int32
	k.cfg.dial = func() (*genetlink.Conn, error) {
		if dials.Add(1) == 2 { // the limits are in place, the size comes next
			go func() { wrote <- pwrite(d, 0, "under way") }()
			<-reached // the resize as a whole is bounded
			time.AfterFunc(200*time.Millisecond, func() { s.cut(); close(held); s.die() })
		}
		return genetlink.Dial(nil)
	}
	err := within(t, patience, "resize", func() error { return k.Resize(t.Context(), d, 2<<20) })
	if err != nil {
		wantErr(t, err, ErrStuck)
	}
	receive(t, "the release", held)
	eventually(t, "the server is gone", func() bool { return s.stopped() })
	s.start()
	restore(t, k, d, s.dial)
	t.Logf("the write under way: %v", receive(t, "the write under way", wrote))
	holds(t, d, disk, "after")
	eventually(t, "the timer is back", func() bool { now, err := k.timer(d.Index); return err == nil && now == k.cfg.IOTimeout })
	slowRead(t, d, s, 5*time.Second)
}

// A process died in the middle of a resize; the next one's watch takes its limits away,
// although the connection works and nobody replaces it.
func TestKernelWatchResetsLimits(t *testing.T) {
	k, disk := kernel(t, Config{IOTimeout: 2 * time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	if err := k.exec(timeoutsMessage(d, time.Second, time.Second)); err != nil {
		t.Fatal(err)
	}
	later := kernel(t, Config{IOTimeout: 2 * time.Second, Poll: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); later.Watch(ctx, func(int) {}) }()
	eventually(t, "the timer is back", func() bool { now, err := k.timer(d.Index); return err == nil && now == 2*time.Second })
	cancel()
	receive(t, "the end of Watch", ended)
	slowRead(t, d, s, 5*time.Second)
	s.die()
	read := make(chan error, 1)
	go func() { _, err := pread(d, 0); read <- err }()
	select {
	case err := <-read:
		t.Errorf("a read failed in spite of the dead-connection timeout: %v", err)
	case <-time.After(4 * time.Second):
	}
	s.start()
	restore(t, later, d, s.dial)
	if err := receive(t, "the read", read); err != nil {
		t.Error(err)
	}
}

// A process died in the middle of a resize; the next one's reconnect takes its limits
// away.
func TestKernelReconnectResetsLimits(t *testing.T) {
	k, disk := kernel(t, Config{IOTimeout: 2 * time.Second}), newDisk(1<<20, 512)
	s := serve(t, disk, "unix")
	d := connect(t, k, s.request())
	if err := k.exec(timeoutsMessage(d, time.Second, time.Second)); err != nil {
		t.Fatal(err)
	}
	s.cut()
	later := kernel(t, Config{IOTimeout: 2 * time.Second})
	restore(t, later, d, s.dial)
	if now, err := k.timer(d.Index); now != 2*time.Second || err != nil {
		t.Errorf("the timer is %v (%v)", now, err)
	}
	slowRead(t, d, s, 5*time.Second)
}
