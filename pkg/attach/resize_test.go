package attach

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The limits of a resize are in place before the size is named, and gone afterwards,
// also when the size is refused.
func TestResizeMessages(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, server := mustConnect(t, k)
	for _, bad := range []int64{1 << 19, 1<<20 + 1} {
		if err := k.Resize(t.Context(), d, bad); err == nil {
			t.Errorf("%d was taken", bad)
		}
	}
	if err := k.Resize(t.Context(), d, 1<<20); err != nil || len(f.sent(cmdReconfigure)) != 0 {
		t.Errorf("the same size: %v", err)
	}
	if err := k.Resize(t.Context(), d, 2<<20); err != nil {
		t.Fatal(err)
	}
	kinds := func() (got [][2]uint64) {
		for _, m := range f.sent(cmdReconfigure) {
			got = append(got, [2]uint64{m.numbers[attrSize], m.numbers[attrDeadTimeout]})
			if m.backend != d.Backend || len(m.fds) != 0 {
				t.Errorf("message is %+v", m)
			}
		}
		return got
	}
	const normal = 7 * 24 * 3600
	if got := kinds(); !slices.Equal(got, [][2]uint64{{0, 30}, {2 << 20, 0}, {0, normal}}) {
		t.Errorf("messages are %v", got)
	}
	f.on(func(g got) unix.Errno {
		if g.numbers[attrSize] != 0 {
			return unix.EINVAL
		}
		return 0
	})
	wants(t, k.Resize(t.Context(), d, 4<<20), unix.EINVAL)
	if got := kinds(); !slices.Equal(got[3:], [][2]uint64{{0, 30}, {4 << 20, 0}, {0, normal}}) {
		t.Errorf("messages are %v", got[3:])
	}
	if now, err := k.timer(d.Index); now != k.cfg.IOTimeout || err != nil {
		t.Errorf("the request timer is %v (%v)", now, err)
	}
	server.Close()
	wants(t, k.Resize(t.Context(), d, 8<<20), ErrUnhealthy)
}

// A resize that the kernel holds up past the bound still has its limits taken away when
// the kernel is done.
func TestResizeLate(t *testing.T) {
	f := newFake(t)
	k := f.kernel(func(c *Config) { c.CallTimeout = 500 * time.Millisecond })
	d, _ := mustConnect(t, k)
	release := make(chan struct{})
	f.on(func(g got) unix.Errno {
		if g.numbers[attrSize] != 0 && g.cmd == cmdReconfigure {
			<-release
		}
		return 0
	})
	wants(t, k.Resize(t.Context(), d, 2<<20), ErrStuck)
	r, server := pair(t)
	wants(t, k.Reconnect(t.Context(), d, r), ErrStuck)
	ended(t, server)
	if k.slots[d.Index].sock.hungUp() {
		t.Error("the connection was cut while the kernel waits for answers on it")
	}
	close(release)
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := f.sent(cmdReconfigure)
	last := sent[len(sent)-1]
	if v, ok := last.numbers[attrTimeout]; !ok || v != 0 || last.numbers[attrDeadTimeout] != 7*24*3600 {
		t.Errorf("the last message is %+v", last)
	}
	if now, err := k.timer(d.Index); now != k.cfg.IOTimeout || err != nil {
		t.Errorf("the request timer is %v (%v)", now, err)
	}
}

// A request that is not answered is no time to resize; many that are do not matter.
func TestResizeWaitsForQuiet(t *testing.T) {
	f := newFake(t)
	k := f.kernel(func(c *Config) { c.QuietTimeout = 50 * time.Millisecond })
	d, _ := mustConnect(t, k)
	sys := k.sys(d.Index)
	f.write("1 0\n", sys, "inflight")
	wants(t, k.Resize(t.Context(), d, 2<<20), ErrUnhealthy)
	if len(f.sent(cmdReconfigure)) != 0 {
		t.Error("the kernel was asked")
	}
	load, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = until(load, time.Millisecond, func() (bool, error) {
			f.write(fmt.Sprintf("%d 0 8 0 2 0 16 0 0 0 0\n", time.Now().UnixMicro()), sys, "stat.new")
			return false, os.Rename(filepath.Join(sys, "stat.new"), filepath.Join(sys, "stat"))
		})
	})
	if err := k.Resize(t.Context(), d, 2<<20); err != nil {
		t.Error(err)
	}
	stop()
	wg.Wait()
}

// Watch takes away what a resize has left, and leaves other devices alone.
func TestWatchResets(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, _ := mustConnect(t, k)
	whole, _ := mustConnect(t, k)
	other, _ := mustConnect(t, k)
	f.write("30000\n", k.sys(d.Index), "queue", "io_timeout")
	f.write("30000\n", k.sys(other.Index), "queue", "io_timeout")
	f.write("qemu\n", k.sys(other.Index), "backend")
	later := f.kernel(func(c *Config) { c.Poll = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { later.Watch(ctx, func(int) {}) })
	c, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	err := until(c, time.Millisecond, func() (bool, error) {
		now, err := later.timer(d.Index) // it may be empty: a file is no sysfs
		return err == nil && now == later.cfg.IOTimeout, nil
	})
	cancel()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	sent := f.sent(cmdReconfigure)
	if len(sent) != 1 || sent[0].index != d.Index || sent[0].backend != d.Backend || sent[0].numbers[attrDeadTimeout] != 7*24*3600 {
		t.Fatalf("messages are %+v", sent)
	}
	if v, ok := sent[0].numbers[attrTimeout]; !ok || v != 0 {
		t.Errorf("message is %+v", sent[0])
	}
	if now, _ := later.timer(other.Index); now != 30*time.Second {
		t.Errorf("another's device was set to %v", now)
	}
	if now, _ := later.timer(whole.Index); now != later.cfg.IOTimeout {
		t.Errorf("a device that was as it should be was set to %v", now)
	}
}

// Reconnect takes away what a resize has left that did not come to its end.
func TestReconnectResets(t *testing.T) {
	f := newFake(t)
	d, _ := mustConnect(t, f.kernel(nil))
	later := f.kernel(nil)
	f.write("30000\n", later.sys(d.Index), "queue", "io_timeout")
	f.devs[d.Index].cut()
	r, _ := pair(t)
	if err := later.Reconnect(t.Context(), d, r); err != nil {
		t.Fatal(err)
	}
	sent := f.sent(cmdReconfigure)
	if v, ok := sent[0].numbers[attrTimeout]; !ok || v != 0 {
		t.Errorf("message is %+v", sent[0])
	}
	if now, err := later.timer(d.Index); now != later.cfg.IOTimeout || err != nil {
		t.Errorf("the request timer is %v (%v)", now, err)
	}
}
