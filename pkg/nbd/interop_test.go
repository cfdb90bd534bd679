package nbd

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs a program that is not ours against the server.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED: %s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// wellKnown is a rig whose disk has data, zeroes and holes, on unix and TCP.
func wellKnown(t *testing.T, block uint32) (r *rig, uris []string) {
	r = newRig(t, 32<<20, Config{})
	r.b.mu.Lock() // the race detector does not see that no client is there yet
	r.d.info.MinBlock = block
	r.b.mu.Unlock()
	p := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(p)
	r.d.Write(p, 1<<20, false)
	r.d.Write(p[:12288], 20<<20, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.serve(l)
	return r, []string{r.uri(), "nbd://" + l.Addr().String() + "/disk"}
}

func TestInteropNbdinfo(t *testing.T) {
	_, uris := wellKnown(t, 512)
	for _, uri := range uris {
		out := tool(t, "nbdinfo", uri)
		for _, want := range []string{"export-size: 33554432", "can_multi_conn: true", "is_read_only: false",
			"can_fast_zero: true", "block_size_minimum: 512", "block_size_maximum: 33554432",
			"base:allocation", "qemu:dirty-bitmap:two", "description: a disk in memory"} {
			if !strings.Contains(out, want) {
				t.Errorf("nbdinfo does not report %q:\n%s", want, out)
			}
		}
		if out := tool(t, "nbdinfo", "--list", uri); !strings.Contains(out, `export="disk"`) {
			t.Errorf("nbdinfo --list:\n%s", out)
		}
		if out := tool(t, "nbdinfo", "--map", uri); strings.Count(out, "\n") != 5 {
			t.Errorf("nbdinfo --map:\n%s", out)
		}
	}
}

func TestInteropNbdcopy(t *testing.T) {
	r, uris := wellKnown(t, 512)
	file := filepath.Join(t.TempDir(), "copy")
	for _, uri := range uris {
		tool(t, "nbdcopy", uri, file)
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, r.d.bytes(0, 32<<20)) {
			t.Errorf("nbdcopy made another file: %v", err)
		}
	}
	target := newDisk(32 << 20)
	r.b.add("second", target)
	second := Target{Network: "unix", Address: r.path, Export: "second"}.String()
	tool(t, "nbdcopy", "--flush", uris[0], second)
	if !bytes.Equal(target.bytes(0, 32<<20), r.d.bytes(0, 32<<20)) {
		t.Error("a copy from export to export differs")
	}
	if target.flushes.Load() == 0 {
		t.Error("nbdcopy --flush did not flush")
	}
}

func TestInteropQemuImg(t *testing.T) {
	r, uris := wellKnown(t, 512)
	file := filepath.Join(t.TempDir(), "copy")
	for _, uri := range uris {
		if out := tool(t, "qemu-img", "info", uri); !strings.Contains(out, "32 MiB") {
			t.Errorf("qemu-img info:\n%s", out)
		}
		if out := tool(t, "qemu-img", "map", "--output=json", uri); strings.Count(out, `"start"`) != 5 {
			t.Errorf("qemu-img map:\n%s", out)
		}
		tool(t, "qemu-img", "convert", "-O", "raw", uri, file)
		if out := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, file); !strings.Contains(out, "identical") {
			t.Errorf("qemu-img compare:\n%s", out)
		}
	}
	second := newDisk(32 << 20)
	second.Write(bytes.Repeat([]byte{0xff}, 32<<20), 0, false)
	r.b.add("second", second)
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file, Target{Network: "unix", Address: r.path, Export: "second"}.String())
	if !bytes.Equal(second.bytes(0, 32<<20), r.d.bytes(0, 32<<20)) {
		t.Error("qemu-img convert into the export differs")
	}
}

func TestInteropQemuIO(t *testing.T) {
	r, uris := wellKnown(t, 512)
	for _, uri := range uris {
		out := tool(t, "qemu-io", "-f", "raw", "-c", "write -P 0x5a -f 1M 1M", "-c", "read -P 0x5a 1M 1M",
			"-c", "write -z 1M 64k", "-c", "read -P 0 1M 64k", "-c", "discard 2M 1M", "-c", "flush",
			"-c", "write -P 1 512 512", "-c", "read -P 1 512 512", "-c", "aio_write -P 7 8M 4M", "-c", "aio_read -P 0x5a 1088k 512k", "-c", "aio_flush", "-c", "read -P 7 8M 4M", uri)
		if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
			t.Errorf("qemu-io:\n%s", out)
		}
	}
	if r.d.flushes.Load() == 0 {
		t.Error("nothing was flushed")
	}
}

func TestInteropFio(t *testing.T) {
	_, uris := wellKnown(t, 512)
	for _, uri := range uris {
		out := tool(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bsrange=4k-256k", "--size=32m",
			"--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--fsync=32")
		if !strings.Contains(out, "err= 0") {
			t.Errorf("fio:\n%s", out)
		}
	}
}

// libnbd with its own checks switched off sends what no honest client sends.
func TestInteropPythonLibnbd(t *testing.T) {
	_, uris := wellKnown(t, 4096)
	const script = `
import nbd, sys, errno
def fails(what, number, f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        assert e.errnum == number, (what, e)
    else:
        raise Exception(what + " succeeded")
for uri in sys.argv[1:]:
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.add_meta_context("qemu:dirty-bitmap:one")
    h.connect_uri(uri)
    h.set_strict_mode(0)
    size = h.get_size()
    assert h.can_meta_context("qemu:dirty-bitmap:one")
    fails("unaligned read", errno.EINVAL, h.pread, 512, 512)
    fails("unaligned write", errno.EINVAL, h.pwrite, b"x", 0)
    fails("read beyond the end", errno.EINVAL, h.pread, 4096, size)
    fails("write beyond the end", errno.ENOSPC, h.pwrite, bytes(4096), size)
    fails("zero beyond the end", errno.ENOSPC, h.zero, 4096, size)
    fails("trim beyond the end", errno.EINVAL, h.trim, 4096, size)
    fails("unknown flag", errno.EINVAL, h.pwrite, bytes(4096), 0, 1 << 12)
    assert h.pread(0, 0) == b""
    h.pwrite(b"y" * 4096, 4096, nbd.CMD_FLAG_FUA)
    assert h.pread(8192, 0) == bytes(4096) + b"y" * 4096
    got = {}
    def note(name, offset, entries, error):
        got[name] = entries
    h.block_status(8192, 0, note)
    assert got["base:allocation"] == [4096, 3, 4096, 0], got
    h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    h.cache(size, 0)
    h.flush()
    h.shutdown()
`
	if out := tool(t, "/usr/bin/python3", append([]string{"-c", script}, uris...)...); out != "" {
		t.Error(out)
	}
}
