package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-csi/strata/test/e2e/process"
)

// hostNode is the kubelet of the machine itself with its container runtime.
type hostNode struct {
	containerd, kubelet *process.Process
	cgroup              string
}

func (h *hostNode) nodeName() string { return ControlNode }

// hiddenFolders are the machine's folders in which runtime and kubelet keep state; the
// cluster has empty ones of its own.
func hiddenFolders() []string {
	return []string{"/run", "/var/lib/kubelet", "/var/log", "/var/lib/cni"}
}

// prepareHost makes the machine fit for a node and configures it.
func (c *Cluster) prepareHost() error {
	c.host = &hostNode{cgroup: "/strata-e2e-" + filepath.Base(c.opts.Work)}
	if err := hideState(); err != nil {
		return err
	}
	if err := c.host.makeCgroups(); err != nil {
		return err
	}
	cni := c.path("cni")
	if err := os.MkdirAll(cni, 0o755); err != nil {
		return err
	}
	config := func(name, content string) error { return os.WriteFile(c.path(name), []byte(content), 0o644) }
	err := errors.Join(
		os.WriteFile(filepath.Join(cni, "10-pods.conflist"), []byte(cniConfig(0)), 0o644),
		config("containerd.toml", containerdConfig(c.path("containerd"), cni, true)),
		config("kubelet.yaml", kubeletConfig(c.ca.file("ca.crt"), c.host.cgroup, true)),
		c.ca.kubeconfig(c.path("kubelet.kubeconfig"), ControlNode, "https://"+apiAddress))
	if err != nil {
		return fmt.Errorf("configure node: %w", err)
	}
	return nil
}

// startHost starts runtime and kubelet on the machine. Pods that do not ask for this
// node by tolerating its taint are for the guests.
func (c *Cluster) startHost(ctx context.Context) error {
	if err := c.host.startContainerd(ctx, c.path("containerd.toml"), c.path("logs")); err != nil {
		return err
	}
	var err error
	c.host.kubelet, err = process.Start(process.Spec{Name: "kubelet", Logs: c.path("logs"), Args: []string{
		c.bin("kubelet"), "--config", c.path("kubelet.yaml"), "--kubeconfig", c.path("kubelet.kubeconfig"),
		"--hostname-override", ControlNode, "--node-ip", controlIP,
		"--register-with-taints", "node-role.kubernetes.io/control-plane=:NoSchedule"}})
	return err
}

// hideState covers the machine's folders in this mount namespace.
func hideState() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for _, dir := range hiddenFolders() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

func (h *hostNode) startContainerd(ctx context.Context, config, logs string) error {
	var err error
	h.containerd, err = process.Start(process.Spec{Name: "containerd", Logs: logs, Args: []string{"containerd", "--config", config}})
	if err != nil {
		return err
	}
	return Wait(ctx, "containerd", patience, func(ctx context.Context) (bool, error) {
		if err := h.containerd.Failed(); err != nil {
			return false, Final(err)
		}
		_, err := process.Run(ctx, "ctr", "version")
		return err == nil, err
	})
}

func (h *hostNode) importImage(ctx context.Context, archive string) error {
	_, err := process.Run(ctx, "ctr", "-n", "k8s.io", "images", "import", archive)
	return err
}

// stop ends kubelet, containers, then the runtime, and removes the cgroups.
func (h *hostNode) stop() error {
	var failed []error
	if h.kubelet != nil {
		failed = append(failed, h.kubelet.Stop(5*time.Second))
	}
	if h.containerd != nil {
		failed = append(failed, h.endContainers(), h.containerd.Stop(10*time.Second))
	}
	return errors.Join(append(failed, h.removeCgroups())...)
}

// endContainers kills all that still run below the node's cgroup, by their own ids.
func (h *hostNode) endContainers() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := process.Run(ctx, "ctr", "-n", "k8s.io", "tasks", "list", "-q")
	if err != nil {
		return err
	}
	for _, id := range strings.Fields(out) {
		// It may end on its own meanwhile.
		_, _ = process.Run(ctx, "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id)
		_, _ = process.Run(ctx, "ctr", "-n", "k8s.io", "tasks", "delete", "-f", id)
	}
	return nil
}

// hierarchies returns the mount points of control groups: one each in version 1.
func hierarchies() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var all []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup" || f[2] == "cgroup2" {
			all = append(all, f[1])
		}
	}
	return all, nil
}

func (h *hostNode) makeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range all {
		dir := filepath.Join(root, h.cgroup)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		// A new group has no processors and memory of its own, so nothing could run in it.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, f))
			if err != nil {
				continue // not this hierarchy
			}
			if err := os.WriteFile(filepath.Join(dir, f), value, 0o644); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes the node's groups, the deepest first.
func (h *hostNode) removeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var failed []error
	for _, root := range all {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, h.cgroup), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				failed = append(failed, err)
			}
		}
	}
	return errors.Join(failed...)
}
