package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialKernel connects as the node does for the kernel. Who waits on the socket for too
// long finds it shut down.
func dialKernel(t *testing.T, d KernelDial) (*os.File, Negotiated) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	f, n, err := DialKernel(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	cut := time.AfterFunc(testPatience, func() {
		t.Errorf("the socket was still in use after %v", testPatience)
		unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR)
	})
	t.Cleanup(func() {
		cut.Stop()
		f.Close()
	})
	return f, n
}

// actAsKernel speaks NBD on the descriptor as the kernel does: simple replies only.
func actAsKernel(t *testing.T, f *os.File, seed byte) {
	t.Helper()
	ask := func(cmd uint16, off uint64, length int, payload []byte) []byte {
		t.Helper()
		cookie := uint64(off)<<8 | uint64(cmd)
		b := make([]byte, requestSize, requestSize+len(payload))
		request{cmd: cmd, cookie: cookie, offset: off, length: uint32(length)}.put(b)
		if _, err := f.Write(append(b, payload...)); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, simpleSize)
		if _, err := io.ReadFull(f, head); err != nil {
			t.Fatalf("reply to command %d: %v", cmd, err)
		}
		c := cursor{b: head}
		if magic, errno, to := c.u32(), c.u32(), c.u64(); magic != magicSimple || errno != 0 || to != cookie {
			t.Fatalf("reply to command %d: %x", cmd, head)
		}
		if cmd != cmdRead {
			return nil
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(f, data); err != nil {
			t.Fatal(err)
		}
		return data
	}
	for i, n := range []int{4096, 512, 65536, 200 << 10, 1 << 20} {
		want := bytes.Repeat([]byte{seed + byte(i), 1, 2, 3}, n/4)
		ask(cmdWrite, 4096, n, want)
		ask(cmdFlush, 0, 0, nil)
		if got := ask(cmdRead, 4096, n, nil); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes written are not those read", n)
		}
	}
}

// tcp adds a TCP listener to the rig.
func (r *rig) tcp() Target {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.serve(l)
	return Target{Network: "tcp", Address: l.Addr().String()}
}

func TestDialKernelPlain(t *testing.T) {
	r := newRig(t, 4<<20, Config{})
	r.d.info.MinBlock = 512
	for name, target := range map[string]Target{
		"unix": {Network: "unix", Address: r.path},
		"tcp":  r.tcp(),
	} {
		t.Run(name, func(t *testing.T) {
			f, n := dialKernel(t, KernelDial{Target: target, Export: "disk"})
			if n.Size != 4<<20 || n.MinBlock != 512 || n.Structured || n.Flags&txSendFlush == 0 {
				t.Errorf("negotiated %+v", n)
			}
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("the socket's flags are %#x, %v: it does not block", flags, err)
			}
			actAsKernel(t, f, 7)
		})
	}
}

// A peer that dies without a word is noticed in time only if the socket was told so.
func TestDialKernelSocketOptions(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	f, _ := dialKernel(t, KernelDial{Target: r.tcp(), Export: "disk"})
	for name, want := range map[string][3]int{
		"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
		"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		"TCP_KEEPCNT":      {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 15000},
		"TCP_NODELAY":      {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if got, err := unix.GetsockoptInt(int(f.Fd()), want[0], want[1]); err != nil || got != want[2] {
			t.Errorf("%s is %d, %v, want %d", name, got, err, want[2])
		}
	}
}

// The options are set before anything is sent, so that they hold for connecting too.
func TestDialKernelPreparesSocketFirst(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := prepareSocket("tcp4", "", raw); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || got != 15000 {
		t.Errorf("TCP_USER_TIMEOUT is %d, %v", got, err)
	}
}

// What the server sends after the handshake, even in the same packet, is left for the
// kernel.
func TestDialKernelReadsNothingBeyond(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const beyond = "beyond the handshake"
	served := make(chan error, 1)
	go func() { served <- serveOnce(l, []byte(beyond)) }()
	f, n := dialKernel(t, KernelDial{Target: Target{Network: "tcp", Address: l.Addr().String()}, Export: "x"})
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if n.Size != 8192 {
		t.Errorf("negotiated %+v", n)
	}
	got, err := io.ReadAll(f)
	if err != nil || string(got) != beyond {
		t.Errorf("the kernel would read %q, %v", got, err)
	}
}

// serveOnce is the least of a server: it accepts GO for any name and adds more to the
// very packet that ends the handshake.
func serveOnce(l net.Listener, more []byte) error {
	nc, err := l.Accept()
	if err != nil {
		return err
	}
	defer nc.Close()
	b := binary.BigEndian.AppendUint64(nil, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := nc.Write(b); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, nc, 4); err != nil {
		return err
	}
	head := make([]byte, optionSize)
	if _, err := io.ReadFull(nc, head); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(head[12:]))); err != nil {
		return err
	}
	h := &handshake{}
	_, err = nc.Write(append(h.infoReplies(optGo, "x", ExportInfo{Size: 8192}, nil), more...))
	return err
}

func TestDialKernelRefusals(t *testing.T) {
	r := newRig(t, 1<<20, Config{})
	const secret = "pub/secret-token"
	for name, target := range map[string]Target{"unix": {Network: "unix", Address: r.path}, "tcp": r.tcp()} {
		_, _, err := DialKernel(t.Context(), KernelDial{Target: target, Export: "forbidden"})
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Reason != Policy {
			t.Errorf("%s: a forbidden export: %v", name, err)
		}
		target.Export = secret
		if _, _, err = DialKernel(t.Context(), KernelDial{Target: target, Export: "broken"}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error names the export: %v", name, err)
		}
	}
	_, _, err := DialKernel(t.Context(), KernelDial{Target: Target{Network: "tcp", Address: "127.0.0.1:1", TLS: true}, Export: "disk"})
	if !errors.Is(err, errTLSWanted) {
		t.Errorf("an nbds address without certificates: %v", err)
	}
}

// The context ends an attempt at a server that says nothing, and no socket is left.
func TestDialKernelEndsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			nc.SetDeadline(time.Now().Add(testPatience))
			_, err = nc.Read(make([]byte, 1))
			nc.Close()
		}
		gone <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = DialKernel(ctx, KernelDial{Target: Target{Network: "tcp", Address: l.Addr().String()}, Export: "disk"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialling a silent server: %v", err)
	}
	if err := <-gone; !errors.Is(err, io.EOF) {
		t.Errorf("the server's side ended with %v: the socket was not closed", err)
	}
}
