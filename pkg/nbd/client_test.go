package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Many goroutines share a connection; what they write is what they read.
func TestClientRoundTrips(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 64<<20, Config{})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.serve(tcp)
	viaTCP, err := r.dialer().Dial(context.Background(), "nbd://"+tcp.Addr().String()+"/disk")
	if err != nil {
		t.Fatal(err)
	}
	defer viaTCP.Close()
	viaUnix := r.dial()
	var wg sync.WaitGroup
	for i := range 16 {
		c := []*Client{viaTCP, viaUnix}[i%2]
		n := []int{1, 511, 4096, 65536, 65537, 1 << 20, 3 << 20}[rnd.IntN(7)]
		wg.Add(1)
		go func() {
			defer wg.Done()
			base := int64(i) * 4 << 20
			for round := range 20 {
				want := bytes.Repeat([]byte{byte(i), byte(round)}, n)[:n]
				off := base + int64(round)*13
				if _, err := c.WriteAt(want, off); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, n)
				if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes at %d differ or fail: %v", n, off, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestClientCommands(t *testing.T) {
	r := newRig(t, testSize, Config{})
	r.d.info.MinBlock = 512
	c := r.dial()
	if c.Size() != testSize || c.BlockSize() != 512 || c.ReadOnly() {
		t.Errorf("size %d, block size %d, read-only %v", c.Size(), c.BlockSize(), c.ReadOnly())
	}
	full := bytes.Repeat([]byte{9}, 1<<20)
	if _, err := c.WriteAt(full, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Zero(4096, 4096, true), c.Zero(8192, 8192, false), c.Trim(512<<10, 4096), c.Flush()); err != nil {
		t.Fatal(err)
	}
	if r.d.flushes.Load() != 1 {
		t.Errorf("flushed %d times", r.d.flushes.Load())
	}
	clear(full[4096:16384])
	clear(full[512<<10:][:4096])
	got := make([]byte, 1<<20)
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, full) {
		t.Errorf("the content differs or cannot be read: %v", err)
	}
	type run struct {
		n     int64
		flags uint32
	}
	var runs []run
	err := c.Extents(ContextAllocation, 0, 1<<20, func(n int64, flags uint32) bool {
		runs = append(runs, run{n, flags})
		return true
	})
	want := []run{{8192, 0}, {8192, 3}, {512<<10 - 16384, 0}, {4096, 3}, {512<<10 - 4096, 0}}
	if err != nil || len(runs) != len(want) {
		t.Fatalf("extents %v, %v, want %v", runs, err, want)
	}
	for i := range want {
		if runs[i] != want[i] {
			t.Errorf("extent %d is %v, want %v", i, runs[i], want[i])
		}
	}
	if err := c.Extents("qemu:nope", 0, 4096, nil); err == nil {
		t.Error("an unknown context has extents")
	}
}

func TestClientAtTheEnd(t *testing.T) {
	r := newRig(t, testSize, Config{})
	c := r.dial()
	n, err := c.ReadAt(make([]byte, 100), testSize-40)
	if n != 40 || err != io.EOF {
		t.Errorf("a read across the end: %d, %v", n, err)
	}
	n, err = c.ReadAt(make([]byte, 100), testSize+40)
	if n != 0 || err != io.EOF {
		t.Errorf("a read beyond the end: %d, %v", n, err)
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); !errors.Is(err, EINVAL) {
		t.Errorf("a read before the beginning: %v", err)
	}
	if _, err := c.WriteAt(make([]byte, 100), testSize-40); !errors.Is(err, ENOSPC) {
		t.Errorf("a write across the end: %v", err)
	}
	all := make([]byte, testSize)
	if _, err := io.ReadFull(io.NewSectionReader(c, 0, c.Size()), all); err != nil {
		t.Error(err)
	}
}

func TestClientTimeouts(t *testing.T) {
	r := newRig(t, testSize, Config{})
	g := newGate(t)
	r.d.before = func(op string, off, _ int64) error {
		if off > 0 {
			g.pass()
		}
		return nil
	}
	c := r.dial()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := c.WithContext(ctx).ReadAt(make([]byte, 4096), 4096)
		ended <- err
	}()
	<-g.entered
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read returns %v", err)
	}
	d := Dialer{Timeout: 20 * time.Millisecond}
	bounded, err := d.Dial(context.Background(), r.uri())
	if err != nil {
		t.Fatal(err)
	}
	defer bounded.Close()
	if _, err := bounded.WriteAt(make([]byte, 4096), 4096); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write that hangs returns %v", err)
	}
	g.open()
	for _, c := range []*Client{c, bounded} { // the late reply has done no harm
		if _, err := c.ReadAt(make([]byte, 4096), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestClientLosesItsServer(t *testing.T) {
	r := newRig(t, testSize, Config{})
	opened := r.conns()
	g := newGate(t)
	r.d.before = func(string, int64, int64) error { g.pass(); return nil }
	c := r.dial()
	ended := make(chan error, 1)
	go func() { ended <- c.Flush() }()
	<-g.entered
	(<-opened).Cut()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("the pending request ends with %v", err)
	}
	if err := c.Flush(); err == nil {
		t.Error("a request after the loss succeeds")
	}
	g.open()
	c.Close()
	if _, err := c.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a request after Close succeeds")
	}
}

// A server that breaks the protocol ends the connection with a reason, and never
// writes outside of what was asked for.
func TestClientAgainstBadServers(t *testing.T) {
	chunk := func(kind uint16, body string) []byte {
		b := unhex(t, body)
		return append(appendChunk(nil, chunkFlagDone, kind, 1, len(b)), b...)
	}
	for name, reply := range map[string][]byte{
		"bad magic":            make([]byte, 40),
		"unknown cookie":       appendSimple(nil, 0, 99),
		"simple reply to read": appendSimple(nil, 0, 1),
		"data outside":         chunk(chunkOffsetData, "0000000000001000 01"),
		"data before":          chunk(chunkOffsetData, "0000000000000001 01"),
		"too much data":        chunk(chunkOffsetData, "0000000000000200"+strings.Repeat("00", 513)),
		"hole outside":         chunk(chunkOffsetHole, "0000000000000200 00000201"),
		"hole of odd size":     chunk(chunkOffsetHole, "0000000000000200 000002"),
		"incomplete":           chunk(chunkOffsetHole, "0000000000000200 000001ff"),
		"nothing":              chunk(chunkNone, ""),
		"unknown type":         chunk(77, "00"),
		"error without number": chunk(chunkError, "00000000 0000"),
		"error, text too long": chunk(chunkError, "00000005 0009 61"),
		"endless chunk":        appendChunk(nil, 0, chunkBlockStatus, 1, 1<<30),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go badServer(far, reply)
			c, err := new(Dialer).Start(context.Background(), near, "x")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			guarded := bytes.Repeat([]byte{0xaa}, 1024)
			if _, err := c.ReadAt(guarded[256:768], 512); err == nil {
				t.Error("the read succeeds")
			}
			if !bytes.Equal(guarded[:256], bytes.Repeat([]byte{0xaa}, 256)) || !bytes.Equal(guarded[768:], guarded[:256]) {
				t.Error("memory outside of the request was written")
			}
		})
	}
}

// badServer negotiates properly and answers the first request with reply.
func badServer(nc net.Conn, reply []byte) {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	nc.Write(binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes))
	io.ReadFull(nc, make([]byte, 4))
	for {
		head := make([]byte, optionSize)
		if _, err := io.ReadFull(nc, head); err != nil {
			return
		}
		opt := binary.BigEndian.Uint32(head[8:])
		io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(head[12:])))
		if opt == optGo {
			d := append([]byte{0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0}, 0, 1)
			nc.Write(appendReply(nil, opt, repInfo, d))
		}
		nc.Write(appendReply(nil, opt, repAck, nil))
		if opt == optGo {
			break
		}
	}
	io.ReadFull(nc, make([]byte, requestSize))
	nc.Write(reply)
	io.Copy(io.Discard, nc)
}

// Servers that know only EXPORT_NAME and simple replies are served too.
func TestClientFallsBack(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		hello := binary.BigEndian.AppendUint64(nil, magicServer)
		hello = binary.BigEndian.AppendUint64(hello, magicOption)
		far.Write(binary.BigEndian.AppendUint16(hello, flagFixedNewstyle))
		io.ReadFull(far, make([]byte, 4))
		for {
			head := make([]byte, optionSize)
			io.ReadFull(far, head)
			opt := binary.BigEndian.Uint32(head[8:])
			io.CopyN(io.Discard, far, int64(binary.BigEndian.Uint32(head[12:])))
			if opt == optExportName {
				break
			}
			far.Write(appendReply(nil, opt, repErrUnsup, nil))
		}
		far.Write(append([]byte{0, 0, 0, 0, 0, 0, 0x10, 0, 0, txHasFlags}, make([]byte, 124)...))
		req := make([]byte, requestSize)
		io.ReadFull(far, req)
		far.Write(append(appendSimple(nil, 0, binary.BigEndian.Uint64(req[8:])), "data"...))
		io.Copy(io.Discard, far)
	}()
	c, err := new(Dialer).Start(context.Background(), near, "x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, 4)
	if _, err := c.ReadAt(got, 0); err != nil || string(got) != "data" || c.Size() != 4096 {
		t.Errorf("read %q, %v, size %d", got, err, c.Size())
	}
	if err := errors.Join(c.Flush(), c.Trim(0, 4096)); err != nil {
		t.Errorf("what the server does not offer is no error: %v", err)
	}
	extents := 0
	c.Extents(ContextAllocation, 0, 4096, func(n int64, flags uint32) bool { extents++; return n == 4096 && flags == 0 })
	if extents != 1 {
		t.Errorf("%d extents", extents)
	}
}

func TestNegotiateFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	near, far := net.Pipe()
	defer far.Close()
	if _, err := Negotiate(ctx, near, "x", Wish{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that says nothing: %v", err)
	}
	near, far = net.Pipe()
	go far.Write([]byte("SSH-2.0-OpenSSH and more"))
	if _, err := Negotiate(context.Background(), near, "x", Wish{}); err == nil || !strings.Contains(err.Error(), "no NBD server") {
		t.Errorf("a server of another protocol: %v", err)
	}
}
