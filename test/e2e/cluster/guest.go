package cluster

import (
	"context"
	_ "embed" // the scripts of the guests
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/strata-csi/strata/test/e2e/image"
	"github.com/strata-csi/strata/test/e2e/process"
)

//go:embed init.sh
var initScript string

//go:embed node-init.sh
var nodeInitScript string

// diskSize is what a guest's disk pretends to have; it is a sparse file.
const diskSize = "24G"

// guest is a node in QEMU.
type guest struct {
	number int
	dir    string // disk, configuration, logs, requests
	line   []string

	mu       sync.Mutex
	vm       *process.Process
	requests int
}

func (g *guest) nodeName() string { return GuestNode(g.number) }

// startGuests writes the guests' disks and boots them; their kubelets wait for the API
// server by themselves.
func (c *Cluster) startGuests(ctx context.Context) error {
	k, err := findKernel(ctx)
	if err != nil {
		return err
	}
	initramfs, base := c.path("initramfs"), c.path("base.img")
	if err := makeInitramfs(ctx, k, c.path("initramfs.d"), initramfs); err != nil {
		return err
	}
	if err := c.makeDisk(ctx, k, c.path("base.d"), base); err != nil {
		return err
	}
	for i := 1; i <= c.opts.Guests; i++ {
		g := &guest{number: i, dir: c.path(GuestNode(i))}
		if err := c.configureGuest(ctx, g, base); err != nil {
			return fmt.Errorf("configure %s: %w", g.nodeName(), err)
		}
		g.line = qemuLine(g, k, initramfs, c.opts.MemoryMB)
		c.guests = append(c.guests, g)
		if err := g.boot(); err != nil {
			return err
		}
	}
	return nil
}

// makeInitramfs packs what is needed to reach the disk and the shared folder.
func makeInitramfs(ctx context.Context, k kernel, dir, file string) error {
	modules, err := k.closure("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "9pnet_virtio", "9p", "virtio-rng")
	if err != nil {
		return err
	}
	files := map[string]image.File{
		"init":          {Content: initScript, Mode: 0o755},
		"bin/busybox":   {Host: "/bin/busybox"},
		"modules/order": {Content: strings.Join(modules, "\n") + "\n"},
	}
	for _, m := range modules {
		files["modules/"+m] = image.File{Host: filepath.Join(k.modules, m)}
	}
	if err := image.Tree(dir, files); err != nil {
		return err
	}
	_, err = process.Run(ctx, "sh", "-c", `cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, "sh", dir, file)
	return err
}

// makeDisk makes the disk that all guests' disks start as.
func (c *Cluster) makeDisk(ctx context.Context, k kernel, dir, file string) error {
	files := map[string]image.File{
		"sbin/node-init":     {Content: nodeInitScript, Mode: 0o755},
		"etc/passwd":         {Content: "root:x:0:0:root:/root:/bin/sh\n"},
		"etc/group":          {Content: "root:x:0:\n"},
		"etc/hosts":          {Content: "127.0.0.1 localhost\n"},
		"etc/os-release":     {Content: "ID=e2e\nPRETTY_NAME=\"e2e node\"\n"},
		"etc/resolv.conf":    {Content: "# none\n"},
		"sbin/modprobe":      {Link: "/bin/busybox"}, // the kernel's own calls, too
		"usr/local/bin/sh":   {Link: "/bin/busybox"},
		"usr/lib/cni":        {},
		"usr/bin/kubelet":    {Host: c.bin("kubelet")},
		"opt/cni/bin/README": {Content: "see /usr/lib/cni\n"},
	}
	for _, empty := range []string{"proc", "sys", "dev", "run", "tmp", "host", "root", "mnt", "var/lib/kubelet", "var/log"} {
		files[empty] = image.File{}
	}
	if err := addModules(files, k); err != nil {
		return err
	}
	if err := image.AddBusybox(ctx, files); err != nil {
		return err
	}
	img := image.Image{Files: files}
	for _, p := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "mount", "umount", "findmnt", "lsblk", "losetup",
		"/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/lib/cni/loopback"} {
		if err := img.Program(ctx, p); err != nil {
			return err
		}
	}
	if err := image.Tree(dir, files); err != nil {
		return err
	}
	// One tree: what the runtime has is there already.
	_, err := process.Run(ctx, "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", dir, file, diskSize)
	return err
}

// addModules adds the kernel's modules under the paths of a real node, without most
// drivers: those are nine tenths of them.
func addModules(files map[string]image.File, k kernel) error {
	base := "lib/modules/" + filepath.Base(k.modules)
	skipped := filepath.Join(k.modules, "kernel", "drivers")
	drivers, err := k.closure("virtio_net", "nbd", "veth", "loop", "dm-mod")
	if err != nil {
		return err
	}
	for _, m := range drivers {
		files[filepath.Join(base, m)] = image.File{Host: filepath.Join(k.modules, m)}
	}
	return filepath.WalkDir(k.modules, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("add modules: %w", err)
		}
		if path == skipped || path == filepath.Join(k.modules, "kernel", "sound") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			files[base+strings.TrimPrefix(path, k.modules)] = image.File{Host: path}
		}
		return nil
	})
}

// configureGuest writes what differs between guests.
func (c *Cluster) configureGuest(ctx context.Context, g *guest, base string) error {
	for _, dir := range []string{"log", "requests", "cni", "images"} {
		if err := os.MkdirAll(filepath.Join(g.dir, "share", dir), 0o755); err != nil {
			return err
		}
	}
	share := func(name string) string { return filepath.Join(g.dir, "share", name) }
	ca, err := os.ReadFile(c.ca.file("ca.crt"))
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(share("ca.crt"), ca, 0o644),
		os.WriteFile(share("cni/10-pods.conflist"), []byte(cniConfig(g.number)), 0o644),
		os.WriteFile(share("containerd.toml"), []byte(containerdConfig("/var/lib/containerd", "/host/cni", false)), 0o644),
		os.WriteFile(share("kubelet.yaml"), []byte(kubeletConfig("/host/ca.crt", "/", false)), 0o644),
		c.ca.kubeconfig(share("kubeconfig"), g.nodeName(), "https://"+apiAddress))
	if err != nil {
		return err
	}
	_, err = process.Run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, filepath.Join(g.dir, "disk.qcow2"))
	return err
}

func qemuLine(g *guest, k kernel, initramfs string, memoryMB int) []string {
	return []string{
		"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
		"-smp", "2", "-m", strconv.Itoa(memoryMB),
		"-kernel", k.image, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off rdinit=/init net.ifnames=0 " +
			"NODE=" + g.nodeName() + " ADDRESS=" + machineIP(g.number),
		"-serial", "stdio", "-monitor", "none",
		"-drive", "file=" + filepath.Join(g.dir, "disk.qcow2") + ",format=qcow2,if=virtio,cache=unsafe,discard=unmap",
		"-fsdev", "local,id=share,security_model=none,path=" + filepath.Join(g.dir, "share"),
		"-device", "virtio-9p-pci,fsdev=share,mount_tag=host",
		"-netdev", "tap,id=net,script=no,downscript=no,ifname=" + tap(g.number),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,mac=52:54:00:00:00:%02x", g.number),
		"-device", "virtio-rng-pci",
	}
}

func (g *guest) boot() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	vm, err := process.Start(process.Spec{Name: "console", Logs: g.dir, Args: g.line})
	if err != nil {
		return fmt.Errorf("boot %s: %w", g.nodeName(), err)
	}
	g.vm = vm
	return nil
}

// kill switches the guest off as a power failure would; its disk keeps what it had
// been sent.
func (g *guest) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.vm == nil {
		return nil
	}
	return g.vm.Kill()
}

func (g *guest) importImage(ctx context.Context, archive string) error {
	name := filepath.Base(archive)
	at := filepath.Join(g.dir, "share", "images", name)
	if err := os.Link(archive, at); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	_, err := g.run(ctx, "ctr -n k8s.io images import /host/images/"+name)
	return err
}

// run runs a script in the guest's own system, outside of any pod.
func (g *guest) run(ctx context.Context, script string) (string, error) {
	g.mu.Lock()
	g.requests++
	file := filepath.Join(g.dir, "share", "requests", fmt.Sprintf("%d-%d", os.Getpid(), g.requests))
	g.mu.Unlock()
	if err := os.WriteFile(file+".new", []byte(script), 0o644); err != nil {
		return "", fmt.Errorf("ask guest: %w", err)
	}
	if err := os.Rename(file+".new", file+".sh"); err != nil {
		return "", fmt.Errorf("ask guest: %w", err)
	}
	var code []byte
	err := Wait(ctx, g.nodeName()+" to run a script", patience, func(context.Context) (bool, error) {
		if g.vm != nil {
			if err := g.vm.Failed(); err != nil {
				return false, Final(err)
			}
		}
		var err error
		code, err = os.ReadFile(file + ".code")
		return err == nil, err
	})
	out, _ := os.ReadFile(file + ".out")
	if err != nil {
		return string(out), err
	}
	if c := strings.TrimSpace(string(code)); c != "0" {
		return string(out), fmt.Errorf("script on %s ended with %s: %s", g.nodeName(), c, out)
	}
	return string(out), nil
}

// guest returns what controls the machine of a node.
func (c *Cluster) guest(name string) (*guest, error) {
	for _, g := range c.guests {
		if g.nodeName() == name {
			return g, nil
		}
	}
	return nil, fmt.Errorf("no guest is named %s", name)
}

// GuestFolder returns the folder of a guest's disk and logs.
func (c *Cluster) GuestFolder(node string) string { return c.path(node) }

// OnNode runs a shell script on a guest outside of any pod, and returns its output.
func (c *Cluster) OnNode(ctx context.Context, node, script string) (string, error) {
	g, err := c.guest(node)
	if err != nil {
		return "", err
	}
	return g.run(ctx, script)
}

// PowerOff ends a guest as a power failure would.
func (c *Cluster) PowerOff(node string) error {
	if c.attached {
		return c.ask(verbPowerOff, node)
	}
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	return g.kill()
}

// PowerOn boots a guest that was switched off, from its own disk.
func (c *Cluster) PowerOn(node string) error {
	if c.attached {
		return c.ask(verbPowerOn, node)
	}
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	return g.boot()
}
