package attach

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func wants(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []Config{
		{First: 0, Last: 100}, {First: 15, Last: 100}, {First: 100, Last: 99}, {First: 100, Last: 32768},
		{IOTimeout: time.Second}, {IOTimeout: 6 * time.Second}, {DeadTimeout: -1}, {DeadTimeout: time.Millisecond},
	} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	k, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if k.cfg.First != 64 || k.cfg.Last != 1023 || k.cfg.IOTimeout != 3*time.Second || k.cfg.DeadTimeout != 7*24*time.Hour {
		t.Errorf("defaults are %+v", k.cfg)
	}
}

// The messages as a kernel took them, byte for byte, in little-endian order.
func TestMessages(t *testing.T) {
	d := Device{Index: 64, Backend: "strata:a:1"}
	r := Request{Size: 1 << 30, BlockSize: 4096, Flags: 0x16d, Backend: "strata:a:1"}
	const (
		index   = "0800010040000000"
		backend = "0f000a007374726174613a613a310000"
		timeout = "0c0004000000000000000000"
		dead    = "0c000800803a090000000000"
	)
	for _, c := range []struct {
		name string
		m    message
		want string
		ack  bool
	}{
		{"connect", connectMessage(64, r, week, 9), "01010000" + index +
			"0c0002000000004000000000" + "0c0003000010000000000000" + timeout + dead +
			"0c0005006d01000000000000" + "0c0006000100000000000000" + backend +
			"100007800c0001800800010009000000", false},
		{"reconnect", reconnectMessage(d, week, false, 9, 10), "03010000" + index + dead + backend +
			"1c0007800c00018008000100090000000c000180080001000a000000", true},
		{"reconnect after a resize", reconnectMessage(d, week, true, 9, 10), "03010000" + index + timeout + dead + backend +
			"1c0007800c00018008000100090000000c000180080001000a000000", true},
		{"resize", resizeMessage(d, 1<<31), "03010000" + index + "0c0002000000008000000000" + backend, true},
		{"timeouts", timeoutsMessage(d, 0, week), "03010000" + index + timeout + dead + backend, true},
		{"disconnect", message{cmdDisconnect, 64, nil}, "02010000" + index, true},
	} {
		msg, err := c.m.encode()
		if err != nil {
			t.Fatal(err)
		}
		b, err := msg.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b); got != c.want {
			t.Errorf("%s is\n%s, want\n%s", c.name, got, c.want)
		}
		if ack := c.m.flags()&netlink.Acknowledge != 0; ack != c.ack {
			t.Errorf("%s asks for an acknowledgement: %t", c.name, ack)
		}
	}
}

func TestLinkDead(t *testing.T) {
	data, err := hex.DecodeString("0800010041000000")
	if err != nil {
		t.Fatal(err)
	}
	m := genetlink.Message{Header: genetlink.Header{Command: cmdLinkDead}, Data: data}
	if index, ok := linkDead(m); index != 65 || !ok {
		t.Errorf("index %d, %t", index, ok)
	}
	for _, bad := range []genetlink.Message{
		{Header: genetlink.Header{Command: cmdConnect}, Data: data},
		{Header: genetlink.Header{Command: cmdLinkDead}},
		{Header: genetlink.Header{Command: cmdLinkDead}, Data: data[:6]},
		{Header: genetlink.Header{Command: cmdLinkDead}, Data: []byte{6, 0, 1, 0, 1, 0, 0, 0}},
	} {
		if index, ok := linkDead(bad); ok {
			t.Errorf("%v is a report of %d", bad, index)
		}
	}
}

func TestDevices(t *testing.T) {
	f := newFake(t)
	k := f.kernel(func(c *Config) { c.First, c.Last = 64, 67 })
	f.appear(65, "strata:a:1", 1<<20, 4096)
	f.appear(5, "strata:b:7", 1<<21, 512)
	f.appear(66, "other", 1<<20, 512)
	f.write("0", f.cfg.Sys, "block", "nbd67", "size") // not connected
	f.write("0", f.cfg.Sys, "block", "nbdx", "size")
	f.write("0", f.cfg.Sys, "block", "sda", "size")
	all, err := k.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{Index: 5, Path: f.cfg.Dev + "/nbd5", Backend: "strata:b:7", Size: 1 << 21, BlockSize: 512, PID: 42},
		{Index: 65, Path: f.cfg.Dev + "/nbd65", Backend: "strata:a:1", Size: 1 << 20, BlockSize: 4096, PID: 42},
	}
	if len(all) != 2 || all[0] != want[0] || all[1] != want[1] {
		t.Errorf("devices are %+v", all)
	}
	for backend, want := range map[string][]Device{"strata:b:7": all[:1], "strata:b": nil, "other": nil} {
		if got, err := k.Find(t.Context(), backend); err != nil || !slices.Equal(got, want) {
			t.Errorf("of backend %s there are %v (%v)", backend, got, err)
		}
	}
	if n, err := k.Free(); n != 2 || err != nil {
		t.Errorf("%d free (%v), want 64 and 67", n, err)
	}
	if n, err := k.Moved(all[0]); n != 24*512 || err != nil {
		t.Errorf("moved %d bytes (%v)", n, err)
	}
}

func TestSocketIsNotInherited(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	r, _ := pair(t)
	d, err := k.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(k.slots[d.Index].sock.fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestSupported(t *testing.T) {
	good := func(t *testing.T) *fake {
		f := newFake(t)
		f.write("6.1.0-56-amd64\n", f.cfg.Proc, "sys/kernel/osrelease")
		f.write("Name:\tx\nCapEff:\t000001ffffffffff\n", f.cfg.Proc, "self/status")
		f.write("64", f.cfg.Proc, "sys/net/core/dev_weight")
		f.write("31", f.cfg.Sys, "module/nbd/parameters/max_part")
		return f
	}
	none := func() (*genetlink.Conn, error) {
		return nil, &netlink.OpError{Op: "dial", Err: unix.EPROTONOSUPPORT}
	}
	for _, c := range []struct {
		name string
		do   func(*fake)
		says string
	}{
		{"all well", func(*fake) {}, ""},
		{"old kernel", func(f *fake) { f.write("5.15.0", f.cfg.Proc, "sys/kernel/osrelease") }, "install 6.1"},
		{"older kernel", func(f *fake) { f.write("6.0.19", f.cfg.Proc, "sys/kernel/osrelease") }, "install 6.1"},
		{"strange kernel", func(f *fake) { f.write("x", f.cfg.Proc, "sys/kernel/osrelease") }, "version"},
		{"no rights", func(f *fake) { f.write("CapEff:\t00000000a80425fb\n", f.cfg.Proc, "self/status") }, "CAP_SYS_ADMIN"},
		{"pod network", func(f *fake) { _ = os.Remove(f.cfg.Proc + "/sys/net/core/dev_weight") }, "hostNetwork"},
		{"few indexes", func(f *fake) {
			f.write("255", f.cfg.Sys, "module/nbd/parameters/max_part")
			f.cfg.First, f.cfg.Last = 64, 4096
		}, "last index is 4095"},
		{"no netlink", func(f *fake) { f.cfg.dial = none }, "generic netlink"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := good(t)
			c.do(f)
			err := f.kernel(nil).Supported()
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wants(t, err, ErrUnsupported)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
		})
	}
	t.Run("no module", func(t *testing.T) {
		f := good(t)
		k := f.kernel(nil)
		if err := k.noFamily(os.ErrNotExist); strings.Contains(err.Error(), "modprobe") {
			t.Errorf("the module is there: %v", err)
		}
		_ = os.RemoveAll(f.cfg.Sys + "/module")
		if err := k.noFamily(os.ErrNotExist); !strings.Contains(err.Error(), "modprobe nbd") {
			t.Errorf("%v does not say what to do", err)
		}
	})
}

// Without the kernel's reports, every device is named at intervals.
func TestWatchPolls(t *testing.T) {
	f := newFake(t)
	f.appear(70, "strata:a:1", 1<<20, 512)
	f.appear(71, "other", 1<<20, 512)
	k := f.kernel(func(c *Config) { c.Poll = 5 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n := 0
	k.Watch(ctx, func(index int) {
		if index != 70 {
			t.Errorf("index %d", index)
		}
		if n++; n == 3 {
			cancel()
		}
	})
	if n < 3 {
		t.Errorf("called %d times", n)
	}
}

func TestClosed(t *testing.T) {
	f := newFake(t)
	k := f.kernel(nil)
	r, server := pair(t)
	d, err := k.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	alive(t, server) // the kernel has it
	r, server = pair(t)
	_, err = k.Connect(t.Context(), r)
	wants(t, err, ErrClosed)
	ended(t, server)
	wants(t, k.Disconnect(t.Context(), d), ErrClosed)
	k.Watch(t.Context(), func(int) {})
}
