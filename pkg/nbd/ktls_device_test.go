//go:build kernelnbd

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"sync"
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

// tlsDevice is a kernel device whose connection is secured.
type tlsDevice struct {
	t      *testing.T
	ctx    context.Context // of the whole test
	r      *rig
	target Target
	k      *attach.Kernel
	d      attach.Device
	f      *os.File
	sock   int // the first connection
	writes sync.WaitGroup
}

// newTLSDevice attaches a rig's disk. At the end of the test, or after two minutes, what is
// still under way on the device fails, so that nobody waits for it for ever.
func newTLSDevice(t *testing.T) *tlsDevice {
	t.Helper()
	v := &tlsDevice{t: t, r: newRig(t, 64<<20, Config{})}
	v.r.d.info.MinBlock = 4096
	v.r.pki = certificates(t)
	v.target = v.r.tcp()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // emulated AES is slow
	t.Cleanup(cancel)
	v.ctx = ctx
	var err error
	if v.k, err = attach.New(attach.Config{}); err != nil {
		t.Fatal(err)
	}
	req, err := v.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v.sock, err = unix.Dup(int(req.Socket.Fd())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(v.sock) })
	if v.d, err = v.k.Connect(ctx, req); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() { ended <- v.disconnect() })
	t.Cleanup(func() {
		if t.Failed() {
			cancel()
		}
		v.writes.Wait()
		v.f.Close() // waits for what the kernel reads ahead; also where it was never opened
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if v.f, err = os.OpenFile(v.d.Path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *tlsDevice) dial(ctx context.Context) (attach.Request, error) {
	f, n, err := DialKernel(ctx, KernelDial{Target: v.target, Export: "disk", TLS: v.r.as(pki.RoleNode)})
	return attach.Request{Socket: f, Size: n.Size, BlockSize: 4096, Flags: n.Flags, Backend: "strata:ktls:1"}, err
}

func (v *tlsDevice) disconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := v.k.Disconnect(ctx, v.d); err != nil {
		return err
	}
	return v.k.Close(ctx)
}

// round writes, reads back past the cache, and looks at what the export holds.
func (v *tlsDevice) round(seed byte) {
	v.t.Helper()
	want := bytes.Repeat([]byte{seed, 1, 2, 3, 4, 5, 6, 7}, 1<<19)
	if _, err := v.f.WriteAt(want, 4096); err != nil {
		v.t.Fatal(err)
	}
	if err := v.f.Sync(); err != nil {
		v.t.Fatal(err)
	}
	if !bytes.Equal(v.r.d.bytes(4096, int64(len(want))), want) {
		v.t.Fatal("the export holds something else")
	}
	if err := unix.IoctlSetInt(int(v.f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		v.t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := v.f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
		v.t.Fatalf("what is read is not what was written: %v", err)
	}
}

// write writes 2 MiB in small steps.
func (v *tlsDevice) write(fill byte) {
	for j := range int64(32) {
		if _, err := v.f.WriteAt(bytes.Repeat([]byte{fill}, 64<<10), 32<<20+j<<16); err != nil {
			v.t.Error(err)
			return
		}
		if err := v.f.Sync(); err != nil {
			v.t.Error(err)
			return
		}
	}
}

// The kernel's NBD client does its I/O over TLS, and goes on when the connection is
// replaced while there is I/O.
func TestKernelTLSDevice(t *testing.T) {
	v := newTLSDevice(t)
	v.round(1)
	calls := v.r.d.calls.Load()
	sent, received := recordsOf(t, v.sock, kernelTX), recordsOf(t, v.sock, kernelRX)
	t.Logf("%d requests took %d records to the server and %d from it", calls, sent, received)
	// What KeyCost assumes.
	if most := uint64(2*calls) + 4<<20/4096 + 64; sent > most || received > most || sent < uint64(calls) {
		t.Errorf("%d requests took %d and %d records", calls, sent, received)
	}
	for i := range byte(3) {
		v.writes.Go(func() { v.write(i) })
		// On a slow machine the kernel sees the end of the old connection late.
		if err := v.k.Restore(v.ctx, v.d, v.dial); err != nil {
			t.Fatal(err)
		}
		v.writes.Wait()
		v.round(2 + i)
	}
}
