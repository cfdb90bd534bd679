package vfs_test

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// suite holds what every FS must do. Each method named Test… is a case.
type suite struct {
	fs  vfs.FS
	dir string
}

// TestSuite runs every case over every implementation, each in an empty directory.
func TestSuite(t *testing.T) {
	kinds := map[string]func(t *testing.T) suite{
		"os":  func(t *testing.T) suite { return suite{vfs.OS(), t.TempDir()} },
		"mem": func(t *testing.T) suite { return suite{memWith(t, "/a/b"), "/a/b"} },
		"reflink": func(t *testing.T) suite {
			m := memWith(t, "/d")
			m.SetReflink(true)
			return suite{m, "/d"}
		},
		"faulty":    func(t *testing.T) suite { return suite{vfs.NewFaulty(memWith(t, "/d"), nil), "/d"} },
		"counting":  func(t *testing.T) suite { return suite{vfs.NewCounting(vfs.OS()), t.TempDir()} },
		"pool":      func(t *testing.T) suite { return suite{vfs.NewPool(vfs.OS(), 64), t.TempDir()} },
		"pool of 1": func(t *testing.T) suite { return suite{vfs.NewPool(memWith(t, "/d"), 1), "/d"} },
		"direct":    func(t *testing.T) suite { return suite{allDirect(vfs.OS()), t.TempDir()} },
		"direct in memory": func(t *testing.T) suite {
			m := memWith(t, "/d")
			m.SetDirectIO(true)
			return suite{allDirect(vfs.NewFaulty(m, nil)), "/d"}
		},
		"direct refused": func(t *testing.T) suite { return suite{allDirect(memWith(t, "/d")), "/d"} },
		"direct in pool": func(t *testing.T) suite {
			return suite{vfs.NewPool(allDirect(vfs.NewCounting(vfs.OS())), 2), t.TempDir()}
		},
		"wrapped": func(t *testing.T) suite {
			m := memWith(t, "/d")
			m.SetReflink(true)
			return suite{vfs.NewPool(vfs.NewCounting(vfs.NewFaulty(m, nil)), 2), "/d"}
		},
	}
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			cases := reflect.TypeFor[suite]()
			for i := range cases.NumMethod() {
				method := cases.Method(i)
				if !strings.HasPrefix(method.Name, "Test") {
					continue
				}
				t.Run(method.Name, func(t *testing.T) {
					method.Func.Interface().(func(suite, *testing.T))(open(t), t)
				})
			}
		})
	}
}

func memWith(t *testing.T, dir string) *vfs.Mem {
	m := vfs.NewMem()
	must(t, m.MkdirAll(dir, 0o755))
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s suite) path(name string) string { return path.Join(s.dir, name) }

// create makes a file that is closed at the end of the test.
func (s suite) create(t *testing.T, name string) vfs.File {
	t.Helper()
	return open(t, s.fs, s.path(name), os.O_RDWR|os.O_CREATE)
}

func open(t testing.TB, fsys vfs.FS, name string, flag int) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, flag, 0o644)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t testing.TB, f vfs.File, off int64, text string) {
	t.Helper()
	if n, err := f.WriteAt([]byte(text), off); err != nil || n != len(text) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(text), off, n, err)
	}
}

func wantText(t testing.TB, f vfs.File, off int64, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := f.ReadAt(got, off); n != len(want) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes at %d: %d, %v", len(want), off, n, err)
	}
	if string(got) != want {
		t.Fatalf("at %d is %q, want %q", off, got, want)
	}
}

func wantSize(t testing.TB, f vfs.File, want int64) {
	t.Helper()
	if got, err := f.Size(); err != nil || got != want {
		t.Fatalf("size is %d, %v, want %d", got, err, want)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}

func (s suite) TestReadAtAndWriteAt(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 5000, "hello")
	wantSize(t, f, 5005)
	wantText(t, f, 5000, "hello")
	wantText(t, f, 4090, strings.Repeat("\x00", 20))
	write(t, f, 4094, "across")
	wantText(t, f, 4093, "\x00across\x00")
	wantSize(t, f, 5005)
}

func (s suite) TestReadBeyondEnd(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 0, "abc")
	p := []byte("xxxxx")
	// Readers built on io.ReaderAt compare with ==, so nothing may wrap io.EOF.
	if n, err := f.ReadAt(p, 1); n != 2 || err != io.EOF || string(p[:2]) != "bc" {
		t.Fatalf("read across the end: %d, %v, %q", n, err, p)
	}
	if n, err := f.ReadAt(p, 100); n != 0 || err != io.EOF {
		t.Fatalf("read beyond the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(p[:2], 1); n != 2 || err != nil {
		t.Fatalf("read up to the end: %d, %v", n, err)
	}
}

func (s suite) TestEmptyRanges(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 0, "abc")
	if n, err := f.ReadAt(nil, 1); n != 0 || err != nil {
		t.Fatalf("empty read: %d, %v", n, err)
	}
	write(t, f, 100, "")
	must(t, f.PunchHole(0, 0))
	must(t, f.DropCache(0, 0))
	must(t, f.CloneRange(f, 0, 0, 0))
	wantSize(t, f, 3)
	wantText(t, f, 0, "abc")
}

func (s suite) TestTruncate(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 0, strings.Repeat("x", 9000))
	must(t, f.Truncate(4100))
	wantSize(t, f, 4100)
	must(t, f.Truncate(1<<40))
	wantSize(t, f, 1<<40)
	wantText(t, f, 4098, "xx\x00\x00")
	wantText(t, f, 8998, "\x00\x00\x00\x00")
	if n, err := f.Allocated(); err != nil || n > 1<<20 {
		t.Fatalf("growing allocated %d bytes, %v", n, err)
	}
}

func (s suite) TestPunchHole(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 0, strings.Repeat("x", 1<<20))
	must(t, f.Sync())
	before, err := f.Allocated()
	must(t, err)
	if err := f.PunchHole(4095, 1<<19); errors.Is(err, vfs.ErrUnsupported) {
		t.Skip("the file system below this test's directory cannot punch holes")
	} else {
		must(t, err)
	}
	wantSize(t, f, 1<<20)
	wantText(t, f, 4094, "x\x00\x00")
	wantText(t, f, 4095+1<<19-1, "\x00x")
	must(t, f.Sync())
	after, err := f.Allocated()
	must(t, err)
	if before < 1<<20 || after > before-1<<18 {
		t.Fatalf("allocated %d before and %d after", before, after)
	}
	must(t, f.PunchHole(1<<30, 4096))
	wantSize(t, f, 1<<20)
}

func (s suite) TestCloneRange(t *testing.T) {
	src, dst := s.create(t, "src"), s.create(t, "dst")
	write(t, src, 0, strings.Repeat("a", 4096)+strings.Repeat("b", 8192))
	write(t, dst, 0, strings.Repeat("c", 4096))
	wantErr(t, dst.CloneRange(src, 1, 0, 100), vfs.ErrUnsupported)
	err := dst.CloneRange(src, 4096, 4096, 8192)
	if errors.Is(err, vfs.ErrUnsupported) {
		wantSize(t, dst, 4096)
		return
	}
	must(t, err)
	wantSize(t, dst, 3*4096)
	wantText(t, dst, 4094, "ccbb")
	write(t, src, 4096, "zz")
	wantText(t, dst, 4094, "ccbb")
	wantErr(t, dst.CloneRange(src, 8192, 0, 8192), vfs.ErrUnsupported)
}

func (s suite) TestSyncAndDropCache(t *testing.T) {
	f := s.create(t, "f")
	write(t, f, 0, "abc")
	must(t, f.Sync())
	must(t, f.DropCache(0, 4096))
	must(t, s.fs.SyncDir(s.dir))
	wantText(t, f, 0, "abc")
}

func (s suite) TestOpenFlags(t *testing.T) {
	name := s.path("f")
	_, err := s.fs.OpenFile(name, os.O_RDWR, 0)
	wantErr(t, err, fs.ErrNotExist)
	f := s.create(t, "f")
	write(t, f, 0, "abc")
	_, err = s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	wantErr(t, err, fs.ErrExist)
	again := open(t, s.fs, name, os.O_RDWR|os.O_CREATE)
	wantText(t, again, 0, "abc")
	open(t, s.fs, name, os.O_RDWR|os.O_TRUNC)
	wantSize(t, f, 0)
	_, err = s.fs.OpenFile(s.path("none/f"), os.O_RDWR|os.O_CREATE, 0o644)
	wantErr(t, err, fs.ErrNotExist)
	_, err = s.fs.OpenFile(s.path("f/f"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		t.Fatal("a file is used as a directory")
	}
}

func (s suite) TestAccessModes(t *testing.T) {
	write(t, s.create(t, "f"), 0, "abc")
	r := open(t, s.fs, s.path("f"), os.O_RDONLY)
	wantText(t, r, 0, "abc")
	if _, err := r.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("a file opened for reading was written")
	}
	w := open(t, s.fs, s.path("f"), os.O_WRONLY)
	write(t, w, 0, "xyz")
	if _, err := w.ReadAt(make([]byte, 1), 0); err == nil {
		t.Fatal("a file opened for writing was read")
	}
	wantText(t, r, 0, "xyz")
}

func (s suite) TestErrorsNameThePath(t *testing.T) {
	_, err := s.fs.OpenFile(s.path("missing"), os.O_RDWR, 0)
	if err == nil || !strings.Contains(err.Error(), s.path("missing")) {
		t.Fatalf("error %v does not name the file", err)
	}
	f := s.create(t, "closed")
	must(t, f.Close())
	_, readErr := f.ReadAt(make([]byte, 1), 0)
	_, writeErr := f.WriteAt(make([]byte, 1), 0)
	_, sizeErr := f.Size()
	for _, err := range []error{readErr, writeErr, sizeErr, f.Sync(), f.Truncate(1), f.PunchHole(0, 1), f.DropCache(0, 1), f.Close()} {
		wantErr(t, err, os.ErrClosed)
		if !strings.Contains(err.Error(), s.path("closed")) {
			t.Fatalf("error %v does not name the file", err)
		}
	}
}

func (s suite) TestNames(t *testing.T) {
	must(t, s.fs.MkdirAll(s.path("x/y"), 0o755))
	must(t, s.fs.MkdirAll(s.path("x/y"), 0o755))
	s.create(t, "b")
	s.create(t, "a")
	s.wantList(t, "a", "b", "x")
	wantErr(t, s.fs.Remove(s.path("none")), fs.ErrNotExist)
	if err := s.fs.Remove(s.path("x")); err == nil {
		t.Fatal("a directory that is not empty was removed")
	}
	must(t, s.fs.Remove(s.path("x/y")))
	must(t, s.fs.Remove(s.path("x")))
	must(t, s.fs.Remove(s.path("a")))
	s.wantList(t, "b")
	_, err := s.fs.List(s.path("none"))
	wantErr(t, err, fs.ErrNotExist)
	wantErr(t, s.fs.SyncDir(s.path("none")), fs.ErrNotExist)
	if err := s.fs.MkdirAll(s.path("b/c"), 0o755); err == nil {
		t.Fatal("a directory was made inside a file")
	}
}

func (s suite) wantList(t *testing.T, want ...string) {
	t.Helper()
	got, err := s.fs.List(s.dir)
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("names are %q, want %q", got, want)
	}
}

func (s suite) TestRename(t *testing.T) {
	a := s.create(t, "a")
	write(t, a, 0, "from a")
	write(t, s.create(t, "b"), 0, "from b")
	must(t, s.fs.Rename(s.path("a"), s.path("b")))
	s.wantList(t, "b")
	wantText(t, open(t, s.fs, s.path("b"), os.O_RDWR), 0, "from a")
	wantText(t, a, 0, "from a")
	must(t, s.fs.MkdirAll(s.path("d"), 0o755))
	must(t, s.fs.Rename(s.path("b"), s.path("d/c")))
	must(t, s.fs.Rename(s.path("d"), s.path("e")))
	write(t, a, 0, "FROM")
	wantText(t, open(t, s.fs, s.path("e/c"), os.O_RDWR), 0, "FROM a")
	wantErr(t, s.fs.Rename(s.path("none"), s.path("b")), fs.ErrNotExist)
	if err := s.fs.Rename(s.path("e"), s.path("e/inside")); err == nil {
		t.Fatal("a directory was moved into itself")
	}
}

func (s suite) TestSpaceAndCacheID(t *testing.T) {
	total, free, err := s.fs.Space(s.dir)
	must(t, err)
	if free <= 0 || total < free {
		t.Fatalf("total %d, free %d", total, free)
	}
	s.create(t, "f")
	first, err := s.fs.CacheID(s.dir)
	must(t, err)
	if again, err := s.fs.CacheID(s.path("f")); err != nil || again != first || first == "" {
		t.Fatalf("cache id was %q and is %q, %v", first, again, err)
	}
}

// TestConcurrentUse finds data races and lost writes: each worker owns one byte in
// sixteen of a shared file and works on files of its own besides.
func (s suite) TestConcurrentUse(t *testing.T) {
	shared := s.create(t, "shared")
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			name := s.path(string(rune('a' + w)))
			for range 50 {
				own, err := s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
				if err != nil {
					t.Error(err)
					return
				}
				off := int64(rng.IntN(1000)*16 + w)
				_, err1 := shared.WriteAt([]byte{byte(w)}, off)
				_, err2 := own.WriteAt([]byte{byte(w)}, off)
				got := []byte{0xff}
				_, err3 := shared.ReadAt(got, off)
				if got[0] != byte(w) {
					t.Errorf("worker %d reads back %d", w, got[0])
				}
				err4 := own.Sync()
				if err := errors.Join(err1, err2, err3, err4, own.Close(), s.fs.Rename(name, name+"2"), s.fs.Remove(name+"2")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
