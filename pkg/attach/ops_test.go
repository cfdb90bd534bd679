package attach

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mustConnect(t *testing.T, k *Kernel) (Device, *os.File) {
	t.Helper()
	r, server := pair(t)
	d, err := k.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return d, server
}

// CONNECT goes to free indexes of the range only, and on to the next when another
// process was faster or an index is on its way out.
func TestConnectFindsIndex(t *testing.T) {
	f := newFake(t)
	f.appear(64, "other", 1<<20, 512)
	answers := map[int]unix.Errno{65: unix.EBUSY, 66: unix.EEXIST, 67: unix.EINVAL}
	f.on(func(g got) unix.Errno {
		if g.cmd != cmdConnect {
			return 0
		}
		return answers[g.index]
	})
	k := f.kernel(func(c *Config) { c.First, c.Last = 64, 70 })
	for _, want := range []int{68, 69, 70} {
		if d, _ := mustConnect(t, k); d.Index != want || d.Size != 1<<20 || d.BlockSize != 512 {
			t.Errorf("device is %+v, want index %d", d, want)
		}
	}
	r, server := pair(t)
	_, err := k.Connect(t.Context(), r)
	wants(t, err, ErrFull)
	ended(t, server)
	for _, m := range f.sent(cmdConnect) {
		if m.index < 65 || m.index > 70 {
			t.Errorf("CONNECT of index %d", m.index)
		}
	}
}

func TestConnectGivesUpOnRefusals(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EINVAL, unix.EPERM} {
		f := newFake(t)
		f.on(func(got) unix.Errno { return errno })
		r, server := pair(t)
		_, err := f.kernel(nil).Connect(t.Context(), r)
		wants(t, err, errno)
		ended(t, server)
		if n := len(f.sent(cmdConnect)); n > 3 {
			t.Errorf("%d attempts", n)
		}
	}
}

func TestConnectChecks(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	for name, change := range map[string]func(*Request){
		"block size":       func(r *Request) { r.BlockSize = 0 },
		"odd block size":   func(r *Request) { r.BlockSize = 1000 },
		"size":             func(r *Request) { r.Size = 513 },
		"no size":          func(r *Request) { r.Size = 0 },
		"foreign backend":  func(r *Request) { r.Backend = "x" },
		"backend and more": func(r *Request) { r.Backend = Prefix + "a b" },
	} {
		r, server := pair(t)
		change(&r)
		if _, err := k.Connect(t.Context(), r); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		ended(t, server)
	}
	if _, err := k.Connect(t.Context(), Request{}); err == nil {
		t.Error("no socket was taken")
	}
	if len(f.log) != 0 {
		t.Errorf("the kernel was asked: %v", f.log)
	}
}

// What the kernel made is not what was asked for: it is taken back.
func TestConnectUndone(t *testing.T) {
	f := newFake(t)
	f.wrongSize = 4096
	r, server := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := f.kernel(nil).Connect(ctx, r); err == nil {
		t.Error("no error")
	}
	ended(t, server)
	if len(f.sent(cmdDisconnect)) != 1 || len(f.devs) != 0 {
		t.Errorf("left behind: %v", f.devs)
	}
}

// A CONNECT that succeeds after the caller gave up is taken back as well.
func TestConnectLate(t *testing.T) {
	f := newFake(t)
	release := make(chan struct{})
	f.on(func(g got) unix.Errno {
		if g.cmd == cmdConnect {
			<-release
		}
		return 0
	})
	k := f.kernel(func(c *Config) { c.CallTimeout = 20 * time.Millisecond })
	r, server := pair(t)
	_, err := k.Connect(t.Context(), r)
	wants(t, err, ErrStuck)
	close(release)
	ended(t, server)
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.sent(cmdDisconnect)) != 1 || len(f.devs) != 0 {
		t.Errorf("left behind: %v", f.devs)
	}
}

// A socket is not adopted while the old one lives and this process does not hold it. It
// is offered again, and taken when the old one has died.
func TestReconnectNotHeld(t *testing.T) {
	f := newFake(t)
	d, old := mustConnect(t, f.kernel(nil))
	later := f.kernel(nil)
	r, server := pair(t)
	wants(t, later.Reconnect(t.Context(), d, r), ErrNotAdopted)
	ended(t, server)
	alive(t, old)
	if held, err := later.Holds(t.Context(), d); held || err != nil {
		t.Errorf("holds: %t, %v", held, err)
	}

	before := len(f.sent(cmdReconfigure))
	f.on(func(g got) unix.Errno {
		if g.cmd == cmdReconfigure && len(f.sent(cmdReconfigure)) == before+3 {
			old.Close()
		}
		return 0
	})
	r, server = pair(t)
	if err := later.Reconnect(t.Context(), d, r); err != nil {
		t.Fatal(err)
	}
	alive(t, server)
	if held, err := later.Holds(t.Context(), d); !held || err != nil {
		t.Errorf("holds: %t, %v", held, err)
	}
	for _, m := range f.sent(cmdReconfigure) {
		if _, sized := m.numbers[attrSize]; sized || m.backend != d.Backend || m.numbers[attrDeadTimeout] != 7*24*3600 {
			t.Errorf("message is %+v", m)
		}
		if _, timed := m.numbers[attrTimeout]; timed {
			t.Errorf("the request timer was reset: %+v", m)
		}
	}
}

func TestReconnectHeld(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, old := mustConnect(t, k)
	r, server := pair(t)
	if err := k.Reconnect(t.Context(), d, r); err != nil {
		t.Fatal(err)
	}
	ended(t, old)
	alive(t, server)
}

func TestReconnectRefusals(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, old := mustConnect(t, k)
	r, server := pair(t)
	server.Close()
	if err := f.kernel(nil).Reconnect(t.Context(), d, r); err == nil {
		t.Error("a dead socket was taken")
	}
	other := d
	other.Backend = Prefix + "another:1"
	r, server = pair(t)
	wants(t, k.Reconnect(t.Context(), other, r), ErrGone)
	ended(t, server)
	alive(t, old)
	if err := k.Disconnect(t.Context(), other); err != nil {
		t.Error(err)
	}
	wants(t, k.Resize(t.Context(), other, 2<<20), ErrGone)
	alive(t, old)
	if len(f.sent(cmdDisconnect)) != 0 {
		t.Error("another's device was ended")
	}
}

func TestRestore(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, old := mustConnect(t, k)
	old.Close()
	refused := errors.New("refused")
	tries, server := 0, (*os.File)(nil)
	dial := func(context.Context) (Request, error) {
		if tries++; tries < 3 {
			return Request{}, refused
		}
		var r Request
		r, server = pair(t)
		return r, nil
	}
	if err := k.Restore(t.Context(), d, dial); err != nil || tries != 3 {
		t.Fatalf("%v after %d tries", err, tries)
	}
	alive(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	tries = -100
	err := k.Restore(ctx, d, dial)
	wants(t, err, refused)
	wants(t, err, context.DeadlineExceeded)
	if err := k.Disconnect(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	tries = 0
	wants(t, k.Restore(t.Context(), d, dial), ErrGone)
	if tries != 0 {
		t.Error("dialled for a device that is gone")
	}
}

func TestDisconnect(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	d, server := mustConnect(t, k)
	f.open = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wants(t, k.Disconnect(ctx, d), ErrInUse)
	f.open = false
	for range 2 {
		if err := k.Disconnect(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, server)
	if n := len(f.sent(cmdDisconnect)); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

// The kernel does not come back from a call: nobody waits longer than the bound, nothing
// is dialled or cut meanwhile, and the threads that are lost are few.
func TestStuck(t *testing.T) {
	f := newFake(t)
	var devices []Device
	patient := f.kernel(nil)
	for range maxLost + 1 {
		d, _ := mustConnect(t, patient)
		devices = append(devices, d)
	}
	k := f.kernel(func(c *Config) { c.CallTimeout = 20 * time.Millisecond })
	release := make(chan struct{})
	f.on(func(g got) unix.Errno {
		if g.cmd == cmdDisconnect {
			<-release
		}
		return 0
	})
	for _, d := range devices {
		wants(t, k.Disconnect(t.Context(), d), ErrStuck)
		wants(t, k.Disconnect(t.Context(), d), ErrStuck)
	}
	if n := len(f.sent(cmdDisconnect)); n != maxLost {
		t.Errorf("%d calls, want %d", n, maxLost)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	dialled := false
	err := k.Restore(ctx, devices[0], func(context.Context) (Request, error) { dialled = true; return Request{}, nil })
	wants(t, err, ErrStuck)
	if dialled {
		t.Error("dialled while a call had not come back")
	}
	close(release)
	for _, d := range devices {
		err := until(t.Context(), time.Millisecond, func() (bool, error) {
			err := k.Disconnect(t.Context(), d)
			if errors.Is(err, ErrStuck) {
				return false, nil
			}
			return true, err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestCloseIsBounded(t *testing.T) {
	f := newFake(t)
	d, _ := mustConnect(t, f.kernel(nil))
	k := f.kernel(func(c *Config) { c.CallTimeout = 20 * time.Millisecond })
	release := make(chan struct{})
	f.on(func(got) unix.Errno { <-release; return 0 })
	wants(t, k.Disconnect(t.Context(), d), ErrStuck)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wants(t, k.Close(ctx), ErrStuck)
	close(release)
	if err := k.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
