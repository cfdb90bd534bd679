package stagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// Kernel makes files of images look like devices. Safe for concurrent use.
type Kernel struct {
	dir  string
	file func(store.ID) string
	// Loop makes loop devices instead of links to files; it needs root.
	Loop bool
	// Fail is asked before each call, by the method's name.
	Fail Faults
	// Open tells whether somebody has a device open; nil means nobody.
	Open func(path string) bool

	mu      sync.Mutex
	most    int
	devices map[int]*device
	dead    chan int
}

type device struct {
	attach.Device
	sock  *os.File
	held  bool // this process made the link, so that it can cut it
	moved int64
}

var _ stage.Kernel = (*Kernel)(nil)

func newKernel(dir string, file func(store.ID) string) *Kernel {
	return &Kernel{dir: dir, file: file, most: 256, devices: make(map[int]*device), dead: make(chan int, 1024)}
}

func (k *Kernel) enter(op string) error {
	if err := k.Fail.hit(op); err != nil {
		return err
	}
	k.mu.Lock()
	return nil
}

// SetMax limits how many devices there can be.
func (k *Kernel) SetMax(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.most = n
}

// Forget is the start of another process: it holds no sockets.
func (k *Kernel) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.devices {
		d.held = false
	}
}

// Boot is the start of another kernel: there are no devices.
func (k *Kernel) Boot() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.devices {
		if err := k.end(d); err != nil {
			return err
		}
	}
	return nil
}

// Tell is the kernel's notice that a link is dead.
func (k *Kernel) Tell(index int) { k.dead <- index }

// Linked tells whether the links of all devices are alive.
func (k *Kernel) Linked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.devices {
		if hungUp(d.sock) {
			return false
		}
	}
	return true
}

// Move makes a device look as if it had moved bytes.
func (k *Kernel) Move(index int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.devices[index].moved += bytes
}

// Connect implements stage.Kernel.
func (k *Kernel) Connect(_ context.Context, r attach.Request) (attach.Device, error) {
	if err := k.enter("Connect"); err != nil {
		_ = r.Socket.Close()
		return attach.Device{}, err
	}
	defer k.mu.Unlock()
	index := 64
	for k.devices[index] != nil {
		index++
	}
	if len(k.devices) >= k.most {
		_ = r.Socket.Close()
		return attach.Device{}, attach.ErrFull
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(r.Backend, attach.Prefix), ":")
	d := &device{sock: r.Socket, held: true, Device: attach.Device{
		Index: index, Backend: r.Backend, Size: r.Size, BlockSize: r.BlockSize,
		Path: filepath.Join(k.dir, fmt.Sprintf("nbd%d", index)),
	}}
	if err := k.make(d, k.file(store.ID(id))); err != nil {
		_ = r.Socket.Close()
		return attach.Device{}, err
	}
	k.devices[index] = d
	return d.Device, nil
}

func (k *Kernel) make(d *device, file string) error {
	if !k.Loop {
		return os.Symlink(file, d.Path)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("losetup: %w: %s", err, out)
	}
	d.Path = strings.TrimSpace(string(out))
	return nil
}

// end is for who holds mu.
func (k *Kernel) end(d *device) error {
	_ = unix.Shutdown(int(d.sock.Fd()), unix.SHUT_RDWR) // as NBD's DISC does
	_ = d.sock.Close()
	delete(k.devices, d.Index)
	if !k.Loop {
		return os.Remove(d.Path)
	}
	if out, err := exec.Command("losetup", "-d", d.Path).CombinedOutput(); err != nil {
		return fmt.Errorf("losetup: %w: %s", err, out)
	}
	return nil
}

// same is for who holds mu.
func (k *Kernel) same(d attach.Device) (*device, error) {
	have := k.devices[d.Index]
	if have == nil || have.Backend != d.Backend {
		return nil, attach.ErrGone
	}
	return have, nil
}

func hungUp(f *os.File) bool {
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLRDHUP}} // #nosec G115 -- an open descriptor
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

// adoptTimeout is how long Reconnect waits for the old link to be dead.
const adoptTimeout = time.Second

// Reconnect implements stage.Kernel.
func (k *Kernel) Reconnect(ctx context.Context, d attach.Device, r attach.Request) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		err := k.adopt(d, r)
		if err == nil {
			return nil
		}
		if !errors.Is(err, attach.ErrNotAdopted) {
			_ = r.Socket.Close()
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			_ = r.Socket.Close()
			return err
		}
	}
}

func (k *Kernel) adopt(d attach.Device, r attach.Request) error {
	if err := k.enter("Reconnect"); err != nil {
		return err
	}
	defer k.mu.Unlock()
	have, err := k.same(d)
	if err != nil {
		return err
	}
	if !have.held && !hungUp(have.sock) {
		return attach.ErrNotAdopted
	}
	_ = unix.Shutdown(int(have.sock.Fd()), unix.SHUT_RDWR)
	_ = have.sock.Close()
	have.sock, have.held = r.Socket, true
	return nil
}

// Replace implements stage.Kernel.
func (k *Kernel) Replace(ctx context.Context, d attach.Device, dial attach.Dial) error {
	if err := k.enter("Replace"); err != nil {
		return err
	}
	k.mu.Unlock()
	r, err := dial(ctx)
	if err != nil {
		return err
	}
	return k.Reconnect(ctx, d, r)
}

// Resize implements stage.Kernel.
func (k *Kernel) Resize(_ context.Context, d attach.Device, size int64) error {
	if err := k.enter("Resize"); err != nil {
		return err
	}
	defer k.mu.Unlock()
	have, err := k.same(d)
	if err != nil {
		return err
	}
	have.Size = size
	if k.Loop {
		if out, err := exec.Command("losetup", "-c", have.Path).CombinedOutput(); err != nil {
			return fmt.Errorf("losetup: %w: %s", err, out)
		}
	}
	return nil
}

// Disconnect implements stage.Kernel.
func (k *Kernel) Disconnect(_ context.Context, d attach.Device) error {
	if err := k.enter("Disconnect"); err != nil {
		return err
	}
	defer k.mu.Unlock()
	have, err := k.same(d)
	if err != nil {
		return nil
	}
	if k.Open != nil && k.Open(have.Path) {
		_ = unix.Shutdown(int(have.sock.Fd()), unix.SHUT_RDWR)
		return attach.ErrInUse
	}
	return k.end(have)
}

// Devices implements stage.Kernel.
func (k *Kernel) Devices(context.Context) ([]attach.Device, error) {
	if err := k.enter("Devices"); err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	var list []attach.Device
	for _, d := range k.devices {
		list = append(list, d.Device)
	}
	slices.SortFunc(list, func(a, b attach.Device) int { return a.Index - b.Index })
	return list, nil
}

// Find implements stage.Kernel.
func (k *Kernel) Find(ctx context.Context, backend string) ([]attach.Device, error) {
	list, err := k.Devices(ctx)
	return slices.DeleteFunc(list, func(d attach.Device) bool { return d.Backend != backend }), err
}

// Moved implements stage.Kernel.
func (k *Kernel) Moved(d attach.Device) (int64, error) {
	if err := k.enter("Moved"); err != nil {
		return 0, err
	}
	defer k.mu.Unlock()
	have, err := k.same(d)
	if err != nil {
		return 0, err
	}
	return have.moved, nil
}

// Free implements stage.Kernel.
func (k *Kernel) Free() (int, error) {
	if err := k.enter("Free"); err != nil {
		return 0, err
	}
	defer k.mu.Unlock()
	return k.most - len(k.devices), nil
}

// Watch implements stage.Kernel.
func (k *Kernel) Watch(ctx context.Context, fn func(index int)) {
	for {
		select {
		case index := <-k.dead:
			fn(index)
		case <-ctx.Done():
			return
		}
	}
}
