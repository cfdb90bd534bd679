package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestQemuImgInfo(t *testing.T) {
	l := need(t, "qemu-img")
	s := start(t)
	s.strata("create", "--size", "1G", "img")
	for _, uri := range []string{s.uri("img"), s.tcpURI("img")} {
		var doc struct {
			Size   int64  `json:"virtual-size"`
			Format string `json:"format"`
		}
		out := l.run("info", "--output=json", uri)
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if doc.Size != 1024*mib || doc.Format != "raw" {
			t.Errorf("qemu-img info %s: %s", uri, out)
		}
	}
	l.result("info: 1 GiB, raw")
}

// mapped is one run of `qemu-img map --output=json`.
type mapped struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
	Depth  int   `json:"depth"`
	Zero   bool  `json:"zero"`
	Data   bool  `json:"data"`
}

func qemuMap(l *tool, args ...string) []mapped {
	l.t.Helper()
	var runs []mapped
	out := l.run(append([]string{"map", "--output=json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		l.t.Fatalf("qemu-img map: %v in %s", err, out)
	}
	return runs
}

// expect compares runs, of which offset, length, zero and data count.
func expect(t *testing.T, what string, got, want []mapped) {
	t.Helper()
	for i := range got {
		got[i].Depth = 0
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func TestQemuImgMap(t *testing.T) {
	l, io := need(t, "qemu-img"), need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	io.run("-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -P 2 8M 64k", "-c", "write -P 3 15M 1M", s.uri("img"))
	hole := func(from, to int64) mapped { return mapped{Start: from, Length: to - from, Zero: true} }
	data := func(from, to int64) mapped { return mapped{Start: from, Length: to - from, Data: true} }

	written := []mapped{
		hole(0, mib), data(mib, 2*mib), hole(2*mib, 8*mib),
		data(8*mib, 8*mib+65536), hole(8*mib+65536, 15*mib), data(15*mib, 16*mib),
	}
	expect(t, "written", qemuMap(l, "-f", "raw", s.uri("img")), written)

	// A clone maps as its parent does; what it discards is a hole, not parent data.
	s.strata("clone", "img", "child")
	expect(t, "clone", qemuMap(l, "-f", "raw", s.uri("child")), written)
	io.run("-f", "raw", "-c", "discard 1M 1M", s.uri("child"))
	expect(t, "discarded in the clone", qemuMap(l, "-f", "raw", s.uri("child")), []mapped{
		hole(0, 8*mib), data(8*mib, 8*mib+65536), hole(8*mib+65536, 15*mib), data(15*mib, 16*mib),
	})
	expect(t, "parent of the clone", qemuMap(l, "-f", "raw", s.uri("img")), written)
	l.result("map: data and holes where they were made, in image and clone")
}

func TestQemuImgMapDirtyBitmap(t *testing.T) {
	l, io := need(t, "qemu-img"), need(t, "qemu-io")
	s := start(t)
	s.strata("create", "--size", "16M", "img")
	io.run("-f", "raw", "-c", "write -P 1 0 16M", s.uri("img"))
	s.strata("snap", "create", "img@full")
	io.run("-f", "raw", "-c", "write -P 2 4M 1M", "-c", "discard 8M 1M", s.uri("img"))

	// With x-dirty-bitmap qemu shows dirty as "data": false.
	spec := fmt.Sprintf("driver=nbd,server.type=unix,server.path=%s,export=img,x-dirty-bitmap=qemu:dirty-bitmap:full", s.socket())
	var dirty []string
	for _, r := range qemuMap(l, "--image-opts", spec) {
		if !r.Data {
			dirty = append(dirty, fmt.Sprintf("%d+%d", r.Start/mib, r.Length/mib))
		}
	}
	if got := strings.Join(dirty, " "); got != "4+1 8+1" {
		t.Errorf("changed since the snapshot, in MiB: %s; want 4+1 8+1", got)
	}
	l.result("map: dirty bitmap of a snapshot is what was written and discarded since")
}

func TestQemuImgCompareAndConvert(t *testing.T) {
	l := need(t, "qemu-img")
	s := start(t)
	rng := seeded(t)
	const size = 96 * mib
	file := sample(t, rng, size)
	for i, uri := range []func(string) string{s.uri, s.tcpURI} {
		name := fmt.Sprintf("img-%d", i)
		s.strata("create", "--size", fmt.Sprint(size), name)
		// Into the export, with many coroutines out of order.
		l.run("convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", file, uri(name))
		l.run("compare", "-f", "raw", "-F", "raw", file, uri(name))
		// Out of it, to a format of its own.
		qcow2 := filepath.Join(t.TempDir(), "out.qcow2")
		l.run("convert", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", uri(name), qcow2)
		l.run("compare", "-f", "raw", "-F", "qcow2", file, qcow2)
		l.run("compare", "-f", "raw", "-F", "qcow2", uri(name), qcow2)
	}
	if out, err := l.try("compare", "-f", "raw", "-F", "raw", sample(t, rng, size), s.uri("img-0")); err == nil {
		t.Errorf("compare finds another file identical: %s", out)
	}
	l.result("convert to and from raw and qcow2, compare: Images are identical.")
}
