package stagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// World is a host with a store.
type World struct {
	// Dir is where everything is.
	Dir     string
	Store   *Store
	Kernel  *Kernel
	Mounter *Mounter
	Exec    *Exec
}

// New makes a world below dir. With real set, devices are loop devices, and mounts and
// programs are those of the system; it needs root.
func New(dir string, real bool) (*World, error) {
	for _, d := range []string{"images", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	w := &World{Dir: dir, Store: newStore(filepath.Join(dir, "images"))}
	w.Kernel = newKernel(filepath.Join(dir, "dev"), w.Store.File)
	w.Kernel.Loop = real
	w.Mounter = &Mounter{Interface: mount.NewFakeMounter(nil)}
	if real {
		w.Mounter.Interface = stage.NewMounter(utilexec.New())
	} else {
		w.Kernel.Open = w.Mounter.has
	}
	w.Exec = &Exec{Interface: utilexec.New(), real: real}
	return w, nil
}

// Node is the name of the host.
const Node = "node-1"

// Config is that of a service on the world. Records are below Dir.
func (w *World) Config() stage.Config {
	return stage.Config{
		Dir: filepath.Join(w.Dir, "node"), Node: Node,
		Finder: w.Store, Kernel: w.Kernel, Dial: w.Store.Dial, Mounter: w.Mounter, Exec: w.Exec,
	}
}

// Ticket publishes an image to the host.
func (w *World) Ticket(ctx context.Context, id store.ID, access store.Access) (stage.Ticket, error) {
	p, err := w.Store.Publish(ctx, id, Node, access)
	return stage.Ticket{Pool: Pool, Store: StoreID, Image: p.Target, Epoch: p.Epoch, Token: p.Token, Access: access}, err
}

// Left names everything that is still on the host: devices, mounts, records, sessions.
func (w *World) Left(ctx context.Context) ([]string, error) {
	var list []string
	devices, err := w.Kernel.Devices(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		list = append(list, "device "+d.Path)
	}
	mounts, err := w.Mounter.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Path, w.Dir) {
			list = append(list, "mount "+m.Path)
		}
	}
	records, err := filepath.Glob(filepath.Join(w.Dir, "node", "*.json*"))
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		list = append(list, "record "+r)
	}
	w.Store.mu.Lock()
	defer w.Store.mu.Unlock()
	for id, i := range w.Store.images {
		for _, c := range i.sessions {
			if !hungUp(c.end) {
				list = append(list, fmt.Sprintf("session of %s, generation %d", id, c.generation))
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// Mounter mounts for real, or remembers only.
type Mounter struct {
	mount.Interface
	// Fail is asked before each change, with "mount" or "unmount".
	Fail Faults
}

// MountSensitive implements mount.Interface.
func (m *Mounter) MountSensitive(source, target, fsType string, options, sensitive []string) error {
	if err := m.Fail.hit("mount"); err != nil {
		return err
	}
	return m.Interface.MountSensitive(source, target, fsType, options, sensitive)
}

// Unmount implements mount.Interface.
func (m *Mounter) Unmount(target string) error {
	if err := m.Fail.hit("unmount"); err != nil {
		return err
	}
	return m.Interface.Unmount(target)
}

// has tells whether a device is mounted anywhere.
func (m *Mounter) has(device string) bool {
	list, err := m.List()
	return err == nil && slices.ContainsFunc(list, func(p mount.MountPoint) bool { return p.Device == device })
}

// Exec runs programs. Those that need a real device or mount are left out where there
// is none, and succeed.
type Exec struct {
	utilexec.Interface
	real bool
	// Fail is asked before each program, by its name.
	Fail Faults

	mu  sync.Mutex
	ran []string
}

// Ran lists the programs so far, with their arguments.
func (e *Exec) Ran() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.ran)
}

// Command implements utilexec.Interface.
func (e *Exec) Command(program string, args ...string) utilexec.Cmd {
	return e.CommandContext(context.Background(), program, args...)
}

// CommandContext implements utilexec.Interface.
func (e *Exec) CommandContext(ctx context.Context, program string, args ...string) utilexec.Cmd {
	e.mu.Lock()
	e.ran = append(e.ran, strings.Join(append([]string{program}, args...), " "))
	e.mu.Unlock()
	if err := e.Fail.hit(program); err != nil {
		return e.Interface.CommandContext(ctx, "sh", "-c", "echo \"$1\" >&2; exit 1", "sh", err.Error())
	}
	if !e.real {
		switch {
		case program == "blockdev":
			return e.Interface.CommandContext(ctx, "echo", "0")
		case program == "resize2fs", program == "xfs_growfs", strings.HasPrefix(program, "fsck."):
			return e.Interface.CommandContext(ctx, "true")
		}
	}
	return e.Interface.CommandContext(ctx, program, args...)
}
