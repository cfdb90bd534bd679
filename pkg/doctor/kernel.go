package doctor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The oldest kernel whose NBD client keeps a device through a lost connection in the
// way strata relies on.
const oldestMajor, oldestMinor = 6, 1

func (h Host) kernel(context.Context) []Finding {
	f := good("kernel", "Linux %s", h.Release)
	major, minor, ok := version(h.Release)
	switch {
	case !ok:
		return []Finding{f.but(Unknown, "make sure that it is Linux 6.1 or newer")}
	case major < oldestMajor || major == oldestMajor && minor < oldestMinor:
		return []Finding{f.but(Bad, "use Linux 6.1 or newer on nodes; stores run on older ones")}
	}
	return []Finding{f}
}

// version takes "6.1.0-40-amd64" apart.
func version(release string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(release, ".")
	b := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = rest[:i]
	}
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil
}

func (h Host) module(context.Context) []Finding {
	const name = "nbd module"
	if h.exists("sys/module/nbd") {
		seen := "loaded"
		if p, err := h.read("sys/module/nbd/parameters/max_part"); err == nil {
			seen += ", max_part=" + p
		}
		return []Finding{good(name, "%s", seen)}
	}
	switch where := h.installed("nbd"); where {
	case "builtin":
		return []Finding{good(name, "built into the kernel")}
	case "module":
		return []Finding{good(name, "installed, not loaded").but(Bad,
			"run: modprobe nbd; and to load it at each boot: echo nbd > /etc/modules-load.d/nbd.conf")}
	}
	return []Finding{good(name, "not installed for kernel %s", h.Release).but(Bad, h.howToInstall())}
}

// installed tells whether a module belongs to the running kernel: "builtin",
// "module" or "".
func (h Host) installed(module string) string {
	for file, answer := range map[string]string{"modules.builtin": "builtin", "modules.dep": "module"} {
		list, err := h.read("lib/modules", h.Release, file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(list) {
			path, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			base := path[strings.LastIndexByte(path, '/')+1:]
			if stem, _, _ := strings.Cut(base, "."); stem == module {
				return answer
			}
		}
	}
	return ""
}

// howToInstall says where the host's distribution keeps the module.
func (h Host) howToInstall() string {
	release, _ := h.read("etc/os-release")
	fields := make(map[string]string)
	for line := range strings.Lines(release) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = strings.Trim(value, `"'`)
	}
	ids := append([]string{fields["ID"]}, strings.Fields(fields["ID_LIKE"])...)
	for _, id := range ids {
		switch id {
		case "ubuntu":
			return "run: apt-get install linux-modules-extra-" + h.Release + " && modprobe nbd"
		case "debian":
			return "install a kernel of Debian (linux-image-amd64 or linux-image-cloud-amd64), start it, and run: modprobe nbd"
		case "fedora":
			return "run: dnf install kernel-modules-" + h.Release + " && modprobe nbd"
		case "rhel", "centos":
			return "this distribution's own kernel comes without nbd; use a kernel that has it (kernel-ml of ELRepo), then run: modprobe nbd"
		case "suse", "opensuse":
			return "install kernel-default in place of kernel-default-base, then run: modprobe nbd"
		case "alpine":
			return "run: apk add linux-lts, start that kernel, and run: modprobe nbd"
		case "arch":
			return "start the newest installed kernel, then run: modprobe nbd"
		case "talos":
			return "add nbd to machine.kernel.modules in the machine configuration"
		}
	}
	return "install the kernel's module nbd (CONFIG_BLK_DEV_NBD), then run: modprobe nbd"
}

func (h Host) netlink(context.Context) []Finding {
	if h.Attach == nil {
		return nil
	}
	if err := h.Attach(); err != nil {
		return []Finding{good("attaching devices", "not possible: %v", err).but(Bad,
			"nodes need the module above, root (CAP_SYS_ADMIN) and the host's network namespace (hostNetwork: true)")}
	}
	return []Finding{good("attaching devices", "the kernel answers on netlink family nbd")}
}

// encryption is needed for NBD over TCP only.
func (h Host) encryption(context.Context) []Finding {
	const name = "kernel TLS"
	if ulp, err := h.read("proc/sys/net/ipv4/tcp_available_ulp"); err == nil {
		for _, u := range strings.Fields(ulp) {
			if u == "tls" {
				return []Finding{good(name, "available")}
			}
		}
	}
	if h.installed("tls") != "" {
		return []Finding{good(name, "installed, not loaded").but(Warning,
			"needed to reach stores on other hosts: modprobe tls; at each boot: echo tls > /etc/modules-load.d/tls.conf")}
	}
	return []Finding{good(name, "not available").but(Warning,
		"needed to reach stores on other hosts: use a kernel with CONFIG_TLS; stores on this host are reached without it")}
}

func (h Host) programs(context.Context) []Finding {
	if h.LookPath == nil {
		return nil
	}
	var missing []string
	for _, p := range []string{"mount", "umount", "blkid", "fsck", "mkfs.ext4", "resize2fs", "mkfs.xfs", "xfs_growfs"} {
		if _, err := h.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return []Finding{good("programs of the node", "missing: %s", strings.Join(missing, " ")).but(Bad,
			"install util-linux, mount, e2fsprogs and xfsprogs where strata node runs")}
	}
	return []Finding{good("programs of the node", "all there")}
}

func (h Host) clock(context.Context) []Finding {
	if h.Clock == nil {
		return nil
	}
	ok, err := h.Clock()
	switch {
	case err != nil:
		return []Finding{good("clock", "%v", err).but(Unknown, "make sure that a time service runs: certificates depend on it")}
	case !ok:
		return []Finding{good("clock", "not synchronised").but(Warning, "run a time service (chrony, systemd-timesyncd): certificates depend on it")}
	}
	return []Finding{good("clock", "synchronised")}
}

// effective reads the capabilities of this process.
func (h Host) effective() (uint64, error) {
	status, err := h.read("proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, fmt.Errorf("no line CapEff in %s: %w", h.path("proc/self/status"), os.ErrNotExist)
}
