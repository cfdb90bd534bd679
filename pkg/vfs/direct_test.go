package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/strata-csi/strata/pkg/vfs"
)

func allDirect(fs vfs.FS) *vfs.Direct {
	return vfs.NewDirect(fs, func(string) bool { return true }, nil)
}

// strict is a disk in memory whose files, in direct mode, refuse what is not aligned
// as strictly as any file system does. refuse refuses all; noMode the mode itself.
type strict struct {
	*vfs.Mem
	refuse, noMode atomic.Bool
	direct         atomic.Int64 // requests in direct mode
	write          func(n int) int
}

type strictFile struct {
	vfs.File
	fs *strict
	on atomic.Bool
}

func (s *strict) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := s.Mem.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &strictFile{File: f, fs: s}, nil
}

func (f *strictFile) Unwrap() vfs.File { return f.File }

func (f *strictFile) SetDirect(on bool) error {
	if on && f.fs.noMode.Load() {
		return syscall.EINVAL
	}
	f.on.Store(on)
	return nil
}

func (f *strictFile) check(p []byte, off int64) error {
	if !f.on.Load() || len(p) == 0 {
		return nil
	}
	f.fs.direct.Add(1)
	at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(p))))
	if f.fs.refuse.Load() || (at|off|int64(len(p)))%4096 != 0 {
		return fmt.Errorf("%d bytes at %d: %w", len(p), off, syscall.EINVAL)
	}
	return nil
}

// ReadAt asks for the rest of a short read, as os.File does.
func (f *strictFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check(p, off); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if n > 0 && errors.Is(err, io.EOF) {
		if err := f.check(p[n:], off+int64(n)); err != nil {
			return n, err
		}
	}
	return n, err
}

func (f *strictFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.check(p, off); err != nil {
		return 0, err
	}
	if f.fs.write == nil {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:f.fs.write(len(p))], off)
	if err == nil && n < len(p) {
		err = f.check(p[n:], off+int64(n))
		if err == nil {
			err = syscall.ENOSPC
		}
	}
	return n, err
}

// aligned answers n bytes whose address is skip above a multiple of 4096.
func aligned(n, skip int) []byte {
	b := make([]byte, n+2*4096)
	at := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % 4096)
	return b[4096-at+skip:][:n:n]
}

// checkRandom compares a file with a model through random reads, writes and cuts.
func checkRandom(t *testing.T, f vfs.File, seed uint64) {
	t.Helper()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var model []byte
	number := func(most int) int { // often at a block, often beside one
		n := rng.IntN(most)
		switch rng.IntN(3) {
		case 0:
			return n &^ 4095
		case 1:
			return max(0, n&^4095+rng.IntN(3)-1)
		}
		return n
	}
	for range 400 {
		off, n := number(40000), number(20000)
		if rng.IntN(40) == 0 {
			n += 3 << 20
		}
		p := aligned(n, rng.IntN(2)*512)
		switch rng.IntN(5) {
		case 0, 1:
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			if got, err := f.WriteAt(p, int64(off)); got != n || err != nil {
				t.Fatalf("write %d at %d: %d, %v", n, off, got, err)
			}
			if grow := off + n - len(model); grow > 0 && n > 0 {
				model = append(model, make([]byte, grow)...)
			}
			if n > 0 {
				copy(model[off:], p)
			}
		case 2:
			must(t, f.Truncate(int64(off)))
			model = append(model[:min(off, len(model)):min(off, len(model))], make([]byte, max(0, off-len(model)))...)
		default:
			want := model[min(off, len(model)):min(off+n, len(model))]
			got, err := f.ReadAt(p, int64(off))
			if got != len(want) || !bytes.Equal(p[:got], want) || err != nil && err != io.EOF || (err == nil) != (got == n) {
				t.Fatalf("read %d at %d of %d: %d, %v", n, off, len(model), got, err)
			}
		}
		wantSize(t, f, int64(len(model)))
	}
}

func TestDirectAgainstModel(t *testing.T) {
	for seed := range uint64(5) {
		disk := &strict{Mem: memWith(t, "/d")}
		refused := func(name string, err error) { t.Errorf("%s was refused: %v", name, err) }
		f := open(t, vfs.NewDirect(disk, func(string) bool { return true }, refused), "/d/f", os.O_RDWR|os.O_CREATE)
		checkRandom(t, f, seed)
		if disk.direct.Load() == 0 {
			t.Fatal("no request went past the page cache")
		}
		checkRandom(t, open(t, allDirect(vfs.OS()), filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE), seed)
	}
}

// The flag is set on files that match, and on them alone.
func TestDirectIsOnForFilesThatMatch(t *testing.T) {
	dir := t.TempDir()
	var told atomic.Int64
	fs := vfs.NewDirect(vfs.OS(), func(name string) bool { return strings.HasSuffix(name, ".data") },
		func(string, error) { told.Add(1) })
	f := open(t, fs, filepath.Join(dir, "f.data"), os.O_RDWR|os.O_CREATE)
	if told.Load() != 0 {
		t.Skip("the file system below this test's directory has no direct I/O")
	}
	for name, f := range map[string]struct {
		vfs.File
		want bool
	}{"f.data": {f, true}, "f.map": {open(t, fs, filepath.Join(dir, "f.map"), os.O_RDWR|os.O_CREATE), false}} {
		write(t, f, 0, strings.Repeat("x", 8192))
		if got := flagsOf(t, filepath.Join(dir, name))&syscall.O_DIRECT != 0; got != f.want {
			t.Errorf("%s bypasses the page cache: %v, want %v", name, got, f.want)
		}
	}
}

// flagsOf finds the flags of this process's descriptor of a file.
func flagsOf(t *testing.T, name string) (flags int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range all {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != name {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		must(t, err)
		_, rest, _ := strings.Cut(string(info), "flags:")
		_, err = fmt.Sscanf(rest, "%o", &flags)
		must(t, err)
		return flags
	}
	t.Fatalf("%s is not open", name)
	return 0
}

// A file system may refuse at the open or at the first request. Either is told once,
// and the files work.
func TestDirectFallsBack(t *testing.T) {
	for _, atOpen := range []bool{true, false} {
		disk := &strict{Mem: memWith(t, "/d")}
		disk.noMode.Store(atOpen)
		disk.refuse.Store(true)
		var told atomic.Int64
		fs := vfs.NewDirect(disk, func(string) bool { return true }, func(_ string, err error) {
			told.Add(1)
			wantErr(t, err, syscall.EINVAL)
		})
		for seed := range uint64(2) {
			f := open(t, fs, fmt.Sprint("/d/", seed), os.O_RDWR|os.O_CREATE)
			checkRandom(t, f, seed)
		}
		if told.Load() != 1 {
			t.Errorf("told %d times that direct I/O is refused", told.Load())
		}
	}
}

// A full disk ends a write within a block. That is no reason to give up direct I/O.
func TestDirectTellsFullDisk(t *testing.T) {
	disk := &strict{Mem: memWith(t, "/d")}
	fs := vfs.NewDirect(disk, func(string) bool { return true }, func(_ string, err error) { t.Errorf("refused: %v", err) })
	f := open(t, fs, "/d/f", os.O_RDWR|os.O_CREATE)
	disk.write = func(n int) int {
		if n > 4096 {
			return 4096 + 512
		}
		return 0
	}
	n, err := f.WriteAt(aligned(8192, 0), 0)
	wantErr(t, err, syscall.ENOSPC)
	if n != 4096 {
		t.Errorf("%d bytes were written, want 4096", n)
	}
}

// Writers of one block complete each other's, and the end of the file never shows
// what fills its last block.
func TestDirectSharesBlocks(t *testing.T) {
	disk := &strict{Mem: memWith(t, "/d")}
	f := open(t, allDirect(disk), "/d/f", os.O_RDWR|os.O_CREATE)
	const workers, each = 8, 200
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				if _, err := f.WriteAt([]byte{byte(w + 1)}, int64(i*workers+w)); err != nil {
					t.Error(err)
				}
				if size, err := f.Size(); err != nil || size > workers*each {
					t.Errorf("size %d, %v", size, err)
				}
			}
		})
	}
	all.Wait()
	wantSize(t, f, workers*each)
	want := strings.Repeat("\x01\x02\x03\x04\x05\x06\x07\x08", each)
	wantText(t, f, 0, want)
}
