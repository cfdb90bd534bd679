//go:build kernelnbd

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/pki"
)

// recordsOf asks the kernel for the number of the next record of a direction.
func recordsOf(t *testing.T, fd int, way int) uint64 {
	t.Helper()
	var b [40]byte // of AES-128-GCM; the number ends it
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TLS, uintptr(way),
		uintptr(unsafe.Pointer(&b)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return binary.BigEndian.Uint64(b[32:])
}

// The kernel's NBD client does its I/O over TLS, and goes on when the connection is
// replaced while there is I/O.
func TestKernelTLSDevice(t *testing.T) {
	r := newRig(t, 64<<20, Config{})
	r.d.info.MinBlock = 4096
	r.pki = certificates(t)
	target := r.tcp()
	k, err := attach.New(attach.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // emulated AES is slow
	defer cancel()
	dial := func() (attach.Request, int) {
		f, n, err := DialKernel(ctx, KernelDial{Target: target, Export: "disk", TLS: r.as(pki.RoleNode)})
		if err != nil {
			t.Fatal(err)
		}
		dup, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(dup) })
		return attach.Request{Socket: f, Size: n.Size, BlockSize: 4096, Flags: n.Flags, Backend: "strata:ktls:1"}, dup
	}
	req, sock := dial()
	d, err := k.Connect(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := k.Disconnect(ctx, d); err != nil {
			t.Error(err)
		}
		if err := k.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	dev, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	round := func(seed byte) {
		t.Helper()
		want := bytes.Repeat([]byte{seed, 1, 2, 3, 4, 5, 6, 7}, 1<<19)
		if _, err := dev.WriteAt(want, 4096); err != nil {
			t.Fatal(err)
		}
		if err := dev.Sync(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.d.bytes(4096, int64(len(want))), want) {
			t.Fatal("the export holds something else")
		}
		if err := unix.IoctlSetInt(int(dev.Fd()), unix.BLKFLSBUF, 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := dev.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("what is read is not what was written: %v", err)
		}
	}
	round(1)
	calls := r.d.calls.Load()
	sent, received := recordsOf(t, sock, kernelTX), recordsOf(t, sock, kernelRX)
	t.Logf("%d requests took %d records to the server and %d from it", calls, sent, received)
	// What KeyCost assumes.
	if most := uint64(2*calls) + 4<<20/4096 + 64; sent > most || received > most || sent < uint64(calls) {
		t.Errorf("%d requests took %d and %d records", calls, sent, received)
	}
	for i := range byte(3) {
		written := make(chan struct{})
		go func() {
			defer close(written)
			for j := range int64(32) {
				if _, err := dev.WriteAt(bytes.Repeat([]byte{i}, 64<<10), 32<<20+j<<16); err != nil {
					t.Error(err)
				}
				if err := dev.Sync(); err != nil {
					t.Error(err)
				}
			}
		}()
		req, _ := dial()
		if err := k.Reconnect(ctx, d, req); err != nil {
			t.Error(err)
		}
		<-written
		round(2 + i)
	}
}
