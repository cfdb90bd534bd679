package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func (h Host) rights(context.Context) []Finding {
	caps, err := h.effective()
	if err != nil {
		return []Finding{good("capabilities", "%v", err).but(Unknown, "run this on the host, as root")}
	}
	has := func(bit int) bool { return caps&(1<<bit) != 0 }
	var out []Finding
	f := good("right to attach and mount", "CAP_SYS_ADMIN")
	if !has(unix.CAP_SYS_ADMIN) {
		f = good(f.Name, "no CAP_SYS_ADMIN").but(Bad, "run strata node as root; in a container, privileged: true")
	}
	out = append(out, f)
	f = good("I/O flusher", "CAP_SYS_RESOURCE")
	major, minor, ok := version(h.Release)
	switch {
	case ok && (major < 5 || major == 5 && minor < 6):
		f = good(f.Name, "Linux %s has no PR_SET_IO_FLUSHER", h.Release).but(Bad, "use Linux 5.6 or newer where stores run")
	case !has(unix.CAP_SYS_RESOURCE):
		f = good(f.Name, "no CAP_SYS_RESOURCE").but(Warning,
			"give stores CAP_SYS_RESOURCE: without it, devices attached on the store's own host can deadlock when memory is short")
	}
	return append(out, f)
}

// mountOf finds the mount that holds a path, the deepest and latest one.
func (h Host) mountOf(path string) (m mountInfo, ok bool) {
	table, err := h.read("proc/self/mountinfo")
	if err != nil {
		return m, false
	}
	for line := range strings.Lines(table) {
		got, valid := parseMount(line)
		if !valid || !within(path, got.point) || len(got.point) < len(m.point) {
			continue
		}
		m, ok = got, true
	}
	return m, ok
}

// mountInfo is one line of mountinfo, see proc_pid_mountinfo(5).
type mountInfo struct {
	point, fstype, source string
	shared                bool
}

func parseMount(line string) (mountInfo, bool) {
	f := strings.Fields(line)
	sep := -1
	for i := 6; i < len(f); i++ {
		if f[i] == "-" {
			sep = i
			break
		}
	}
	if sep < 0 || len(f) < sep+3 {
		return mountInfo{}, false
	}
	m := mountInfo{point: unescape(f[4]), fstype: f[sep+1], source: unescape(f[sep+2])}
	for _, tag := range f[6:sep] {
		m.shared = m.shared || strings.HasPrefix(tag, "shared:")
	}
	return m, true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// propagation: what the node mounts must be seen by kubelet and by pods.
func (h Host) propagation(context.Context) []Finding {
	const name = "mount propagation"
	if !h.exists(h.KubeletDir) {
		return nil
	}
	m, ok := h.mountOf(h.KubeletDir)
	switch {
	case !ok:
		return []Finding{good(name, "the mount of %s is not found", h.KubeletDir).but(Unknown, "run this on the host, or in the node's pod")}
	case !m.shared:
		return []Finding{good(name, "%s lies on %s, which is not shared", h.KubeletDir, m.point).but(Bad,
			"on the host run: mount --make-rshared "+m.point+"; in the pod use mountPropagation: Bidirectional")}
	}
	return []Finding{good(name, "%s is shared", m.point)}
}

// reflink tells file systems on which flatten shares extents.
func reflink(fstype string) bool { return fstype == "xfs" || fstype == "btrfs" }

func (h Host) data(context.Context) []Finding {
	if h.DataDir == "" {
		return nil
	}
	const name = "data directory"
	dir, err := filepath.Abs(h.DataDir)
	if err != nil || !h.exists(dir) {
		return []Finding{good(name, "%s does not exist", h.DataDir).but(Bad, "make it, on the disk that is to hold the images")}
	}
	m, ok := h.mountOf(dir)
	if !ok {
		return []Finding{good(name, "the mount of %s is not found", dir).but(Unknown, "run this on the host")}
	}
	out := []Finding{h.medium(dir, m)}
	var st unix.Statfs_t
	if err := unix.Statfs(h.path(dir), &st); err == nil {
		free, total := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
		f := good("free space", "%d GiB of %d GiB", free>>30, total>>30)
		if free < total/10 {
			f = f.but(Warning, "make room: below a tenth of the disk flatten and new data soon have none")
		}
		out = append(out, f)
	}
	return append(out, h.direct(dir))
}

// medium judges the file system of the data directory.
func (h Host) medium(dir string, m mountInfo) Finding {
	f := good("data directory", "%s on %s (%s)", dir, m.fstype, m.source)
	switch {
	case strings.HasPrefix(filepath.Base(m.source), "nbd"):
		return f.but(Bad, "keep images on a disk that strata does not serve itself: under memory pressure both would wait for each other")
	case m.fstype == "tmpfs" || m.fstype == "ramfs":
		return f.but(Bad, "keep images on a disk; this is memory")
	case m.fstype == "overlay":
		return f.but(Bad, "mount a disk of the host here; this is a container's own layer and goes with it")
	case strings.HasPrefix(m.fstype, "nfs") || m.fstype == "cifs" || strings.HasPrefix(m.fstype, "fuse"):
		return f.but(Warning, "use a local file system: what this one promises of a sync is not known")
	case !reflink(m.fstype):
		return f.but(Warning, "works; on xfs flatten shares data instead of copying it")
	}
	return f
}

// direct tries whether files can be opened past the page cache.
func (h Host) direct(dir string) Finding {
	const name = "direct I/O"
	fd, err := unix.Open(h.path(dir), unix.O_TMPFILE|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return good(name, "not possible: %v", os.NewSyscallError("open", err)).but(Warning, "leave --io at buffered")
	}
	if err := unix.Close(fd); err != nil {
		return good(name, "%v", err).but(Unknown, "leave --io at buffered")
	}
	return good(name, "possible")
}
