package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-csi/strata/pkg/store"
)

// content returns n bytes: islands of data in a sea of zeros.
func content(n int) []byte {
	const seed = 42 // the layout does not matter; transfer's own tests vary it
	r := rand.NewChaCha8([32]byte{seed})
	b := make([]byte, n)
	for off := 0; off < n; off += 3 << 20 {
		_, _ = r.Read(b[off:min(n, off+200<<10)]) // never fails
	}
	b[n-1] = 1
	return b
}

func (b *bench) file(name string, data []byte) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// sameAs requires that an image shows data and zeros behind it.
func (b *bench) sameAs(ref string, data []byte) {
	b.t.Helper()
	i, err := b.mem.Lookup(b.t.Context(), ref)
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := b.mem.Open(b.t.Context(), i.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, i.Size)
	if _, err := d.ReadAt(got, 0); err != nil {
		b.t.Fatal(err)
	}
	padded := append(bytes.Clone(data), make([]byte, max(0, len(got)-len(data)))...)
	if !bytes.Equal(got, padded) {
		b.t.Errorf("%s shows other bytes than were put in", ref)
	}
}

func (b *bench) nothing() {
	b.t.Helper()
	if out := b.must("ls", "-l"); strings.Count(out, "\n") != 1 {
		b.t.Errorf("something was left behind:\n%s", out)
	}
}

func TestImportExportFile(t *testing.T) {
	b := newBench(t)
	data := content(9<<20 + 4096)
	src, dst := b.file("src", data), filepath.Join(b.dir, "dst")
	if r := b.run("import", src, "img", "--block-size", "512"); r.code != 0 || r.out+r.err != "" {
		t.Fatalf("import: %+v", r)
	}
	b.sameAs("img", data)
	var info store.Info
	if err := json.Unmarshal([]byte(b.must("info", "img", "--format", "json")), &info); err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(data)) || info.BlockSize != 512 {
		t.Errorf("imported as %+v", info)
	}
	var usage store.Usage
	if err := json.Unmarshal([]byte(strings.Trim(b.must("du", "img", "--format", "json"), "[]\n")), &usage); err != nil {
		t.Fatal(err)
	}
	if usage.Own > 2<<20 {
		t.Errorf("%d bytes of a sparse file were stored", usage.Own)
	}
	b.must("snap", "create", "img@s")
	b.must("export", "img@s", dst)
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("export differs (%v)", err)
	}
	if r := b.run("export", "img", dst); r.code != 1 || !strings.Contains(r.err, "--force") {
		t.Errorf("export over a file: %+v", r)
	}
	b.write("img", 0, 4096, 9)
	b.must("export", "img", dst, "--force")
	if got, _ = os.ReadFile(dst); got[0] != 9 || !bytes.Equal(got[4096:], data[4096:]) {
		t.Error("the replaced file differs")
	}
}

// An export takes nothing from an image that nobody has used: it can be formatted still.
// An import does.
func TestExportLeavesAnImageUnused(t *testing.T) {
	b := newBench(t)
	format := func() store.Format {
		i, err := b.mem.Lookup(t.Context(), "img")
		if err != nil {
			t.Fatal(err)
		}
		return i.Format
	}
	b.must("create", "--size", "1M", "img")
	b.must("export", "img", filepath.Join(b.dir, "dst"))
	if got := format(); got != store.FormatNone {
		t.Errorf("after an export the format is %q", got)
	}
	b.must("rm", "img")
	b.must("import", b.file("src", content(4096)), "img")
	if got := format(); got != store.FormatUnknown {
		t.Errorf("after an import the format is %q", got)
	}
}

func TestImportRoundsUpAndSaysSo(t *testing.T) {
	b := newBench(t)
	data := content(10000)
	r := b.run("import", b.file("src", data), "img")
	if want := "note: 10000 bytes were rounded up to 12288; the last 2288 read as zero\n"; r.code != 0 || r.err != want {
		t.Errorf("import says %+v, want %q", r, want)
	}
	b.sameAs("img", data)
	var answer transferAnswer
	out := b.must("import", b.file("src2", data[:4096]), "img2", "--format", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Bytes != 4096 || answer.Image.Size != 4096 || answer.Data != 4096 {
		t.Errorf("answer %s (%v)", out, err)
	}
}

// TestImportExportPipe: more than the first size, so that the image grows on the way.
func TestImportExportPipe(t *testing.T) {
	b := newBench(t)
	data := content(2*firstSize + 5000)
	r := b.runWith(iotest.HalfReader(bytes.NewReader(data)), "import", "-", "img")
	if r.code != 0 {
		t.Fatalf("import: %+v", r)
	}
	b.sameAs("img", data)
	if i, _ := b.mem.Lookup(t.Context(), "img"); i.Size != (int64(len(data))+4095)/4096*4096 {
		t.Errorf("the image has %d bytes for %d", i.Size, len(data))
	}
	if out := b.must("export", "img", "-"); !bytes.Equal([]byte(out)[:len(data)], data) || strings.Trim(out[len(data):], "\x00") != "" {
		t.Error("export differs")
	}
}

func TestImportExportNBD(t *testing.T) {
	b := newBench(t)
	data := content(7 << 20)
	b.must("import", b.file("src", data), "img")
	uri := strings.TrimSpace(b.must("uri", "img"))
	b.must("import", uri, "copy")
	b.sameAs("copy", data)
	b.must("create", "--size", "7M", "target")
	b.write("target", 0, 7<<20, 0xee) // zeros must be sent as well
	b.must("export", "img", strings.TrimSpace(b.must("uri", "target")))
	b.sameAs("target", data)
	b.must("create", "--size", "1M", "small")
	r := b.run("export", "img", strings.TrimSpace(b.must("uri", "small")))
	if r.code != 1 || !strings.Contains(r.err, "the target has 1 MiB and the image needs 7 MiB") {
		t.Errorf("export to a smaller target: %+v", r)
	}
	b.sameAs("small", nil)
}

func TestFailedImportLeavesNothing(t *testing.T) {
	broken := errors.New("broken pipe of a friend")
	t.Run("input fails", func(t *testing.T) {
		b := newBench(t)
		in := io.MultiReader(bytes.NewReader(content(3*firstSize)), iotest.ErrReader(broken))
		r := b.runWith(in, "import", "-", "img")
		if r.code != 1 || !strings.Contains(r.err, broken.Error()) {
			t.Errorf("%+v", r)
		}
		b.nothing()
	})
	t.Run("input is empty", func(t *testing.T) {
		b := newBench(t)
		if r := b.runWith(strings.NewReader(""), "import", "-", "img"); r.code != 1 || !strings.Contains(r.err, "empty") {
			t.Errorf("%+v", r)
		}
		if r := b.run("import", b.file("empty", nil), "img"); r.code != 1 || !strings.Contains(r.err, "empty") {
			t.Errorf("%+v", r)
		}
		b.nothing()
	})
	t.Run("interrupted", func(t *testing.T) {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		in, feed := io.Pipe()
		go func() {
			_, _ = feed.Write(content(4 << 20))
			cancel() // and the rest never comes
		}()
		defer in.Close()
		var out, err bytes.Buffer
		code := run(ctx, []string{"--store", b.dir, "import", "-", "img"}, streams{in: in, out: &out, err: &err, env: func(string) string { return "" }})
		if code != 1 || !strings.Contains(err.String(), "nothing half-made") {
			t.Errorf("exit %d: %s", code, err.String())
		}
		b.nothing()
	})
	t.Run("name is taken", func(t *testing.T) {
		b := newBench(t)
		b.must("create", "--size", "1M", "img")
		b.write("img", 0, 4096, 5)
		if r := b.run("import", b.file("src", content(8192)), "img"); r.code != 1 {
			t.Errorf("%+v", r)
		}
		b.sameAs("img", bytes.Repeat([]byte{5}, 4096))
	})
}

func TestFailedExportLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.must("create", "--size", "8M", "img")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	dst := filepath.Join(b.dir, "dst")
	code := run(ctx, []string{"--store", b.dir, "export", "img", dst}, streams{out: &out, err: &errs, env: func(string) string { return "" }})
	if code != 1 || !strings.Contains(errs.String(), "a file appears when it is whole") {
		t.Errorf("exit %d: %s", code, errs.String())
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "*dst*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, ".strata-export*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExportRefusesTerminal(t *testing.T) {
	b := newBench(t)
	b.must("create", "--size", "1M", "img")
	var out, err bytes.Buffer
	code := run(t.Context(), []string{"--store", b.dir, "export", "img", "-"}, streams{out: &out, err: &err, env: func(string) string { return "" }, outIsTerminal: true})
	if code != 1 || out.Len() != 0 || !strings.Contains(err.String(), "terminal") {
		t.Errorf("exit %d, %d bytes: %s", code, out.Len(), err.String())
	}
}

// TestExportOfImageInUse: what is being written is refused, its snapshot is not.
func TestExportOfImageInUse(t *testing.T) {
	b := newBench(t)
	b.must("create", "--size", "1M", "img")
	b.must("snap", "create", "img@s")
	b.must("publish", "--node", "n", "img")
	if r := b.run("export", "img", "-"); r.code != 1 || !strings.Contains(r.err, "published to node n") || !strings.Contains(r.err, "snapshot") {
		t.Errorf("%+v", r)
	}
	if out := b.must("export", "img@s", "-"); len(out) != 1<<20 {
		t.Errorf("%d bytes", len(out))
	}
}

func TestProgressIsForTerminals(t *testing.T) {
	b := newBench(t)
	src := b.file("src", content(4<<20))
	for i, c := range []struct {
		terminal bool
		args     []string
		want     bool
	}{{true, nil, true}, {false, nil, false}, {true, []string{"--no-progress"}, false}, {true, []string{"--format", "json"}, false}} {
		var out, err bytes.Buffer
		args := append([]string{"--store", b.dir, "import", src, fmt.Sprint("img", i)}, c.args...)
		code := run(t.Context(), args, streams{out: &out, err: &err, env: func(string) string { return "" }, errIsTerminal: c.terminal})
		if code != 0 || strings.Contains(err.String(), "100 %") != c.want || !c.want && err.Len() > 0 {
			t.Errorf("terminal %v, %v: exit %d, %q", c.terminal, c.args, code, err.String())
		}
	}
	b.must("clone", "img0", "child")
	var out, err bytes.Buffer
	run(t.Context(), []string{"--store", b.dir, "flatten", "child"}, streams{out: &out, err: &err, env: func(string) string { return "" }, errIsTerminal: true})
	if !strings.Contains(err.String(), "flatten child") || !strings.Contains(err.String(), "100 %") {
		t.Errorf("flatten draws %q", err.String())
	}
}
