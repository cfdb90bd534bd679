package transfer

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFileRoundTripStaysSparse(t *testing.T) {
	dir := t.TempDir()
	want := make([]byte, 32<<20)
	copy(want[5<<20:], "island")
	copy(want[len(want)-1:], "x")
	in := filepath.Join(dir, "in")
	f, err := os.Create(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{5 << 20, int64(len(want)) - 8} {
		if _, err := f.WriteAt(want[at:at+8], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := OpenSource(in)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := filepath.Join(dir, "out")
	dst, err := CreateTarget(out, src.Size(), false)
	if err != nil {
		t.Fatal(err)
	}
	st, err := Copy(t.Context(), dst, src, src.Size(), Options{Blank: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file has its name before Commit: %v", err)
	}
	if err := dst.Commit(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%v)", err)
	}
	if st.Data > 4*Grain {
		t.Errorf("%d bytes were written for two islands", st.Data)
	}
	var sys syscall.Stat_t
	if err := syscall.Stat(out, &sys); err != nil || sys.Blocks*512 > 1<<20 {
		t.Errorf("the copy takes %d bytes on disk (%v)", sys.Blocks*512, err)
	}
	if left := names(t, dir); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTargetRefusesToReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	t.Run("there before", func(t *testing.T) {
		write(t, path, "old")
		if _, err := CreateTarget(path, 4096, false); !errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v, want %v", err, fs.ErrExist)
		}
	})
	t.Run("came meanwhile", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		dst, err := CreateTarget(path, 4096, false)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, "other")
		if err := dst.Commit(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v, want %v", err, fs.ErrExist)
		}
		if err := dst.Abort(); err != nil {
			t.Error(err)
		}
	})
	if b, _ := os.ReadFile(path); string(b) != "other" {
		t.Errorf("the file became %q", b)
	}
	t.Run("forced", func(t *testing.T) {
		link := filepath.Join(dir, "link")
		if err := os.Symlink("out", link); err != nil {
			t.Fatal(err)
		}
		dst, err := CreateTarget(link, 4096, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := dst.Commit(); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); len(b) != 4096 {
			t.Errorf("the linked file has %d bytes", len(b))
		}
	})
	if left := names(t, dir); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	dst, err := CreateTarget(filepath.Join(dir, "out"), 4096, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Abort(); err != nil {
		t.Error(err)
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOpenSourceTellsStreams(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/zero"} {
		if _, err := OpenSource(path); !errors.Is(err, ErrStream) {
			t.Errorf("%s: %v, want %v", path, err, ErrStream)
		}
	}
	if _, err := OpenSource(t.TempDir()); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("directory: %v", err)
	}
	if _, err := OpenSource(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestFileZero(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, string(bytes.Repeat([]byte{7}, 64<<10)))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := &File{f: f, size: 64 << 10}
	defer file.Close()
	if err := file.Zero(1000, 50000); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if len(b) != 64<<10 || !isZero(b[1000:51000]) || b[999] != 7 || b[51000] != 7 {
		t.Error("wrong bytes were zeroed")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
