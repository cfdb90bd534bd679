package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/strata-csi/strata/test/vm/guest/wire"
)

// qemuCommand writes initramfs and disk and returns how QEMU is started with them.
func qemuCommand(ctx context.Context, dir string, m Machine, c Command) ([]string, error) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errors.New("qemu-system-x86 is not installed: run hack/setup.sh as root")
	}
	k, err := debianKernel(ctx)
	if err != nil {
		return nil, err
	}
	j := job(m, c)
	j.RootType = "9p"
	j.ModuleDir = k.modules
	j.BootModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "virtio-rng"}
	disk, err := makeDisk(dir, m)
	if err != nil {
		return nil, err
	}
	if disk != "" {
		j.Disk, j.DiskFS = "/dev/vda", m.DiskFS
		j.BootModules = append(j.BootModules, "virtio_blk")
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(ctx, dir, initramfs, k, j); err != nil {
		return nil, err
	}
	accel, cpu, err := accelerator(m.Accel)
	if err != nil {
		return nil, err
	}
	line := []string{
		program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,hpet=off", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.MemoryMiB),
		"-kernel", k.image, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 log_buf_len=4M random.trust_cpu=on mitigations=off " + wire.Parameter + "/job",
		"-serial", "stdio", "-monitor", "none",
		"-fsdev", "local,id=host,path=/,security_model=passthrough,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=" + wire.Share,
		"-device", "virtio-serial-pci", "-chardev", "file,id=frames,path=/dev/fd/3",
		"-device", "virtserialport,chardev=frames,name=" + wire.Port,
		"-device", "virtio-rng-pci",
	}
	if disk != "" {
		line = append(line, "-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe,discard=unmap")
	}
	return line, nil
}

func writeInitramfs(ctx context.Context, dir, file string, k kernel, j wire.Job) error {
	program, err := buildInit(ctx, dir)
	if err != nil {
		return err
	}
	first, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	description, err := encodeJob(j)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() { _ = f.Close() }()
	a := newArchive(f)
	a.add("init", 0o755, first)
	a.add("job", 0o600, description)
	a.dir("mnt")
	if err := a.addModules(k, j.BootModules); err != nil {
		return err
	}
	return errors.Join(a.close(), f.Close())
}

// accelerator returns QEMU's accelerator and the processor it shows. KVM has to be
// asked for: there are machines whose /dev/kvm makes virtual machines and processors
// in which Linux does not boot, and every test must pass emulated anyway.
func accelerator(wanted string) (accel, cpu string, err error) {
	switch wanted {
	case "", "tcg":
		return "tcg,thread=multi,tb-size=256", "max", nil
	case "kvm":
		return "kvm", "host", nil
	}
	return "", "", fmt.Errorf("%q is not an accelerator: use kvm or tcg", wanted)
}
