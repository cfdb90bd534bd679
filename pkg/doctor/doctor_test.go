package doctor

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rig is a host below a folder.
type rig struct {
	t *testing.T
	Host
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, Host: Host{Root: t.TempDir(), Release: "6.1.0-40-amd64"}}
	r.file("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
	r.file("proc/sys/net/ipv4/tcp_available_ulp", "espintcp mptcp tls\n")
	r.file("sys/module/nbd/parameters/max_part", "16\n")
	r.mounts("22 1 254:0 / / rw shared:1 - xfs /dev/vda rw")
	r.LookPath = func(p string) (string, error) { return "/sbin/" + p, nil }
	r.Attach = func() error { return nil }
	r.Clock = func() (bool, error) { return true, nil }
	return r
}

func (r *rig) file(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.Root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mounts(lines ...string) { r.file("proc/self/mountinfo", strings.Join(lines, "\n")+"\n") }

// find returns the one finding of that name.
func (r *rig) find(name string) Finding {
	r.t.Helper()
	var got []Finding
	for _, f := range r.Examine(context.Background()) {
		if f.Name == name {
			got = append(got, f)
		}
		if (f.Level == Good) != (f.Do == "") {
			r.t.Errorf("%+v: every level but ok says what to do", f)
		}
	}
	if len(got) != 1 {
		r.t.Fatalf("%d findings are called %q", len(got), name)
	}
	return got[0]
}

func (r *rig) want(name string, level Level, text string) {
	r.t.Helper()
	f := r.find(name)
	if f.Level != level || !strings.Contains(f.Seen+" "+f.Do, text) {
		r.t.Errorf("%s: got %+v, want %s with %q", name, f, level, text)
	}
}

func TestAllIsWell(t *testing.T) {
	r := newRig(t)
	r.DataDir = "/data"
	r.file("data/x", "")
	r.file("var/lib/kubelet/x", "")
	for _, f := range r.Examine(context.Background()) {
		// The folder of a test may lie on anything.
		if f.Level != Good && f.Name != "direct I/O" && f.Name != "free space" {
			t.Errorf("%+v", f)
		}
	}
}

func TestKernelAge(t *testing.T) {
	for release, level := range map[string]Level{
		"5.15.0-100-generic": Bad, "6.0.9": Bad, "6.1.0-40-amd64": Good, "6.12": Good, "7.0-rc1": Good, "mine": Unknown,
	} {
		r := newRig(t)
		r.Release = release
		r.want("kernel", level, release)
	}
}

func TestModule(t *testing.T) {
	r := newRig(t)
	r.want("nbd module", Good, "max_part=16")
	if err := os.RemoveAll(filepath.Join(r.Root, "sys")); err != nil {
		t.Fatal(err)
	}
	for id, text := range map[string]string{
		"ID=ubuntu\nID_LIKE=debian": "linux-modules-extra-6.1.0-40-amd64",
		"ID=debian":                 "linux-image-amd64",
		`ID="rocky"` + "\n" + `ID_LIKE="rhel centos fedora"`: "ELRepo",
		"ID=talos": "machine.kernel.modules",
		"":         "CONFIG_BLK_DEV_NBD",
	} {
		r.file("etc/os-release", id)
		r.want("nbd module", Bad, text)
	}
	r.file("lib/modules/6.1.0-40-amd64/modules.dep", "kernel/drivers/block/nbd2.ko:\nkernel/drivers/block/nbd.ko.xz: kernel/lib/x.ko\n")
	r.want("nbd module", Bad, "modprobe nbd")
	r.file("lib/modules/6.1.0-40-amd64/modules.dep", "")
	r.file("lib/modules/6.1.0-40-amd64/modules.builtin", "kernel/drivers/block/nbd.ko\n")
	r.want("nbd module", Good, "built into")
}

func TestAttachAndTLS(t *testing.T) {
	r := newRig(t)
	r.Attach = func() error { return errors.New("family nbd is missing") }
	r.want("attaching devices", Bad, "family nbd is missing")
	r.file("proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n")
	r.want("kernel TLS", Warning, "CONFIG_TLS")
	r.file("lib/modules/6.1.0-40-amd64/modules.dep", "kernel/net/tls/tls.ko:\n")
	r.want("kernel TLS", Warning, "modprobe tls")
}

func TestRights(t *testing.T) {
	r := newRig(t)
	r.file("proc/self/status", "CapEff:\t000001fffeffffff\n")
	r.want("I/O flusher", Warning, "CAP_SYS_RESOURCE")
	r.want("right to attach and mount", Good, "")
	r.file("proc/self/status", "CapEff:\t0000000000000000\n")
	r.want("right to attach and mount", Bad, "privileged")
	r.file("proc/self/status", "Name:\n")
	r.want("capabilities", Unknown, "root")
}

func TestPropagation(t *testing.T) {
	r := newRig(t)
	r.file("var/lib/kubelet/x", "")
	r.mounts("22 1 254:0 / / rw shared:1 - xfs /dev/vda rw", "30 22 254:0 /k /var/lib rw,relatime master:1 - xfs /dev/vda rw")
	r.want("mount propagation", Bad, "make-rshared /var/lib")
	r.mounts("22 1 254:0 / / rw - xfs /dev/vda rw", "30 22 254:0 /k /var/lib/kubelet rw shared:7 - xfs /dev/vda rw", "31 22 254:0 /k /var/lib/kube rw - xfs /dev/vda rw")
	r.want("mount propagation", Good, "/var/lib/kubelet")
}

func TestDataDirectory(t *testing.T) {
	r := newRig(t)
	r.DataDir = "/data dir"
	r.want("data directory", Bad, "does not exist")
	r.file("data dir/x", "")
	for line, want := range map[string]Finding{
		`30 22 0:1 / /data\040dir rw - tmpfs tmpfs rw`:       {Level: Bad, Do: "memory"},
		`30 22 0:1 / /data\040dir rw - ext4 /dev/nbd7 rw`:    {Level: Bad, Do: "serve itself"},
		`30 22 0:1 / /data\040dir rw - overlay overlay rw`:   {Level: Bad, Do: "container"},
		`30 22 0:1 / /data\040dir rw - nfs4 host:/x rw`:      {Level: Warning, Do: "local file system"},
		`30 22 0:1 / /data\040dir rw - ext4 /dev/sda1 rw`:    {Level: Warning, Do: "xfs"},
		`30 22 0:1 / /data\040dir rw - btrfs /dev/sda1 rw`:   {Level: Good},
		`30 22 0:1 / /data rw shared:9 - tmpfs tmpfs rw,a=b`: {Level: Good}, // another directory
	} {
		r.mounts("22 1 254:0 / / rw shared:1 - xfs /dev/vda rw", line)
		r.want("data directory", want.Level, want.Do)
	}
	if f := r.find("free space"); !strings.Contains(f.Seen, "GiB") {
		t.Errorf("%+v", f)
	}
}

func TestProgramsAndClock(t *testing.T) {
	r := newRig(t)
	r.LookPath = func(p string) (string, error) {
		if p == "mkfs.xfs" {
			return "", os.ErrNotExist
		}
		return p, nil
	}
	r.Clock = func() (bool, error) { return false, nil }
	r.want("programs of the node", Bad, "mkfs.xfs")
	r.want("clock", Warning, "time service")
	r.Clock = func() (bool, error) { return false, errors.New("no") }
	r.want("clock", Unknown, "time service")
}

func TestSnapshotsInTheCluster(t *testing.T) {
	r := newRig(t)
	status := map[string]int{}
	r.Cluster = func(_ context.Context, path string) (int, error) {
		for part, s := range status {
			if strings.Contains(path, part) {
				return s, nil
			}
		}
		return 0, errors.New("refused")
	}
	r.want("snapshot API", Unknown, "refused")
	status["snapshot.storage"] = http.StatusNotFound
	r.want("snapshot API", Bad, "external-snapshotter")
	status["snapshot.storage"] = http.StatusOK
	status["lease"] = http.StatusNotFound
	r.want("snapshot controller", Warning, "leader election")
	status["lease"] = http.StatusForbidden
	r.want("snapshot controller", Unknown, "kubectl get --raw")
	status["lease"] = http.StatusOK
	r.want("snapshot controller", Good, "there")
}

func TestWorst(t *testing.T) {
	if got := Worst(nil); got != Good {
		t.Errorf("nothing is %s", got)
	}
	if got := Worst([]Finding{{Level: Warning}, {Level: Bad}, {Level: Unknown}}); got != Bad {
		t.Errorf("got %s", got)
	}
}
