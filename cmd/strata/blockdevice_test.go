package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// loopDevice makes a block device of a file, where the machine lets this user.
func (b *bench) loopDevice(file string) string {
	b.t.Helper()
	if os.Getuid() != 0 {
		b.t.Skip("only root can make loop devices")
	}
	path, err := exec.LookPath("losetup")
	if err != nil {
		path = "/sbin/losetup"
	}
	out, err := exec.Command(path, "--find", "--show", file).CombinedOutput()
	if err != nil {
		b.t.Skipf("no loop devices here: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	b.t.Cleanup(func() {
		if out, err := exec.Command(path, "--detach", device).CombinedOutput(); err != nil {
			b.t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// A block device is read whole, and written to only when that is meant.
func TestImportExportBlockDevice(t *testing.T) {
	b := newBench(t)
	data := content(5<<20 + 4096)
	source := b.loopDevice(b.file("source", data))
	target := b.loopDevice(b.file("target", bytes.Repeat([]byte{7}, 6<<20)))
	small := b.loopDevice(b.file("small", make([]byte, 4<<20)))
	b.must("import", source, "img")
	b.sameAs("img", data)
	if i, err := b.mem.Lookup(t.Context(), "img"); err != nil || i.Size != int64(len(data)) {
		t.Errorf("imported as %+v, %v", i, err)
	}
	if r := b.run("export", "img", target); r.code == 0 || !strings.Contains(r.err, "--force") {
		t.Errorf("export over a device: %+v", r)
	}
	if r := b.run("export", "img", small, "--force"); r.code == 0 || !strings.Contains(r.err, small) {
		t.Errorf("export to a device that is too small: %+v", r)
	}
	b.must("export", "img", target, "--force")
	got, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:len(data)], data) {
		t.Error("the device does not hold the image")
	}
	if rest := got[len(data):]; !bytes.Equal(rest, bytes.Repeat([]byte{7}, len(rest))) {
		t.Error("what lies behind the image was changed")
	}
}
