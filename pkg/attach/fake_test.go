package attach

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const familyID = 0x23

// fake is the nbd driver as far as netlink and sysfs show it, with the habits that
// matter: what it drops, refuses and compares. It keeps descriptors of the sockets it
// is given, as the kernel does.
type fake struct {
	t   *testing.T
	cfg Config

	mu   sync.Mutex
	devs map[int]*handle
	log  []got
	// before runs before a message is handled; an error number other than 0 is the answer.
	before func(g got) unix.Errno
	// size that a CONNECT results in instead of the one asked for, if not 0.
	wrongSize uint64
	// open: a DISCONNECT leaves the device there.
	open bool
}

// got is a message the fake was sent.
type got struct {
	cmd     uint8
	flags   netlink.HeaderFlags
	index   int
	numbers map[uint16]uint64
	backend string
	fds     []int
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir := t.TempDir()
	f := &fake{t: t, devs: map[int]*handle{}, cfg: Config{
		Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), Proc: filepath.Join(dir, "proc"),
		AdoptTimeout: 100 * time.Millisecond, CallTimeout: 5 * time.Second, QuietTimeout: time.Second,
	}}
	f.cfg.dial = func() (*genetlink.Conn, error) {
		return genltest.Dial(genltest.ServeFamily(genetlink.Family{ID: familyID, Name: familyName, Version: version}, f.serve)), nil
	}
	for _, d := range []string{filepath.Join(f.cfg.Sys, "block"), f.cfg.Dev, f.cfg.Proc} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, h := range f.devs {
			h.close()
		}
	})
	return f
}

// kernel makes a Kernel on the fake; change may set more of its configuration.
func (f *fake) kernel(change func(*Config)) *Kernel {
	f.t.Helper()
	cfg := f.cfg
	if change != nil {
		change(&cfg)
	}
	k, err := New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := k.Close(ctx); err != nil {
			f.t.Error(err)
		}
	})
	return k
}

func (f *fake) write(value string, path ...string) {
	f.t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(value), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// appear makes the files of a connected device.
func (f *fake) appear(index int, backend string, size, block uint64) {
	dir := filepath.Join(f.cfg.Sys, "block", "nbd"+strconv.Itoa(index))
	for name, value := range map[string]string{
		"backend": backend, "size": fmt.Sprint(size / sector), "ro": "0", "pid": "42", "dev": "0:0",
		"inflight": "       0        0", "stat": "1 0 8 0 2 0 16 0 0 0 0 0 0 0 0 0 0",
		"queue/logical_block_size": fmt.Sprint(block), "queue/io_timeout": "30000", "queue/scheduler": "[mq-deadline] none",
	} {
		f.write(value+"\n", dir, name)
	}
	f.write(string(make([]byte, 4096)), f.cfg.Dev, "nbd"+strconv.Itoa(index))
}

func (f *fake) vanish(index int) {
	name := "nbd" + strconv.Itoa(index)
	_ = os.RemoveAll(filepath.Join(f.cfg.Sys, "block", name))
	_ = os.Remove(filepath.Join(f.cfg.Dev, name))
}

func (f *fake) serve(g genetlink.Message, n netlink.Message) ([]genetlink.Message, error) {
	m := f.decode(g, n)
	f.mu.Lock()
	f.log = append(f.log, m)
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if errno := before(m); errno != 0 {
			return nil, genltest.Error(int(errno))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	errno := f.handle(m)
	if errno != 0 {
		return nil, genltest.Error(int(errno))
	}
	return []genetlink.Message{{Header: g.Header}}, nil
}

func (f *fake) decode(g genetlink.Message, n netlink.Message) got {
	m := got{cmd: g.Header.Command, flags: n.Header.Flags, numbers: map[uint16]uint64{}}
	if n.Header.Type != familyID || g.Header.Version != version {
		f.t.Errorf("message of family %#x, version %d", n.Header.Type, g.Header.Version)
	}
	ad, err := netlink.NewAttributeDecoder(g.Data)
	if err != nil {
		f.t.Error(err)
		return m
	}
	for ad.Next() {
		switch ad.Type() {
		case attrIndex:
			m.index = int(ad.Uint32())
		case attrBackend:
			m.backend = ad.String()
		case attrSockets:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(item *netlink.AttributeDecoder) error {
						for item.Next() {
							m.fds = append(m.fds, int(item.Uint32()))
						}
						return nil
					})
				}
				return nil
			})
		default:
			m.numbers[ad.Type()] = ad.Uint64()
		}
	}
	if err := ad.Err(); err != nil {
		f.t.Error(err)
	}
	return m
}

func (f *fake) handle(m got) unix.Errno {
	dev := f.devs[m.index]
	switch m.cmd {
	case cmdConnect:
		if dev != nil {
			return unix.EBUSY
		}
		f.devs[m.index] = f.take(m.fds[0], m.backend)
		size := m.numbers[attrSize]
		if f.wrongSize != 0 {
			size = f.wrongSize
		}
		f.appear(m.index, m.backend, size, m.numbers[attrBlockSize])
	case cmdDisconnect:
		if dev == nil {
			return unix.EINVAL
		}
		dev.cut()
		if !f.open {
			dev.close()
			delete(f.devs, m.index)
			f.vanish(m.index)
		}
	case cmdReconfigure:
		return f.reconfigure(m, dev)
	}
	return 0
}

func (f *fake) reconfigure(m got, dev *handle) unix.Errno {
	if dev == nil || m.backend != dev.backend {
		return unix.EINVAL
	}
	if size, ok := m.numbers[attrSize]; ok {
		f.write(fmt.Sprint(size/sector), f.cfg.Sys, "block", "nbd"+strconv.Itoa(m.index), "size")
	}
	if _, ok := m.numbers[attrTimeout]; ok {
		f.write("30000", f.cfg.Sys, "block", "nbd"+strconv.Itoa(m.index), "queue", "io_timeout")
	}
	for _, fd := range m.fds {
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return err.(unix.Errno)
		}
		if !f.devs[m.index].hungUp() {
			return 0 // dropped
		}
		f.devs[m.index].close()
		f.devs[m.index] = f.take(fd, m.backend)
	}
	return 0
}

func (f *fake) take(fd int, backend string) *handle {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		f.t.Errorf("descriptor %d: %v", fd, err)
	}
	return &handle{fd: n, backend: backend}
}

// sent returns the messages of a kind.
func (f *fake) sent(cmd uint8) []got {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []got
	for _, m := range f.log {
		if m.cmd == cmd {
			all = append(all, m)
		}
	}
	return all
}

func (f *fake) on(before func(got) unix.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

// pair returns a request with one end of a connection, and the server's end.
func pair(t *testing.T) (Request, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	server := os.NewFile(uintptr(fds[1]), "server")
	t.Cleanup(func() { server.Close() })
	return Request{Socket: os.NewFile(uintptr(fds[0]), "client"), Size: 1 << 20, BlockSize: 512, Flags: 1, Backend: Prefix + "image:1"}, server
}

// ended fails unless the server sees the end of the connection.
func ended(t *testing.T, server *os.File) {
	t.Helper()
	if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("the connection has not ended: %d, %v", n, err)
	}
}

// alive fails if the server sees the end of the connection.
func alive(t *testing.T, server *os.File) {
	t.Helper()
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("the connection has ended: %v", err)
	}
}
