package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/vfs"
)

// pooled makes a pool over a Mem with n synced files /0 … of their own number.
func pooled(t testing.TB, n, most int, inject vfs.Injector) (*vfs.Pool, *vfs.Mem, []vfs.File) {
	t.Helper()
	m := vfs.NewMem()
	p := vfs.NewPool(vfs.NewFaulty(m, inject), most)
	files := make([]vfs.File, n)
	for i := range files {
		files[i] = open(t, p, fmt.Sprint("/", i), os.O_RDWR|os.O_CREATE)
		write(t, files[i], 0, fmt.Sprint("file ", i))
		must(t, files[i].Sync())
	}
	return p, m, files
}

// wantOpen checks that the pool counts as many files as are open.
func wantOpen(t testing.TB, p *vfs.Pool, m *vfs.Mem, want int) {
	t.Helper()
	if p.OpenCount() != want || m.OpenCount() != want {
		t.Fatalf("pool counts %d, %d are open, want %d", p.OpenCount(), m.OpenCount(), want)
	}
}

func TestPoolKeepsItsLimit(t *testing.T) {
	p, m, files := pooled(t, 10, 3, nil)
	wantOpen(t, p, m, 3)
	for i, f := range files {
		wantText(t, f, 0, fmt.Sprint("file ", i))
		wantOpen(t, p, m, 3)
	}
	for _, f := range files {
		must(t, f.Close())
	}
	wantOpen(t, p, m, 0)
}

func TestPoolClosesTheLeastRecentlyUsed(t *testing.T) {
	var opens, hot atomic.Int64
	count := vfs.First(vfs.CountTo(&opens), vfs.OnPath("0", vfs.CountTo(&hot)))
	_, _, files := pooled(t, 8, 4, vfs.OnKind(vfs.OpOpen, count))
	for i := range 100 { // one file in use all the time, the others in turn
		wantText(t, files[0], 0, "file 0")
		wantText(t, files[1+i%7], 0, fmt.Sprint("file ", 1+i%7))
	}
	if n := hot.Load(); n > 1 {
		t.Fatalf("the file in use was closed %d times", n)
	}
	for i := range 4 {
		wantText(t, files[i], 0, fmt.Sprint("file ", i))
	}
	opens.Store(0)
	for i := range 100 {
		wantText(t, files[i%4], 0, fmt.Sprint("file ", i%4))
	}
	if n := opens.Load(); n != 0 {
		t.Fatalf("%d openings while all files have room", n)
	}
}

func TestPoolNeverClosesUnsyncedFiles(t *testing.T) {
	boom := errors.New("boom")
	fail := atomic.Bool{}
	p, m, files := pooled(t, 6, 2, vfs.OnKind(vfs.OpSync, func(vfs.Op) error {
		if fail.Load() {
			return boom
		}
		return nil
	}))
	changes := []func(f vfs.File) error{
		func(f vfs.File) error { _, err := f.WriteAt([]byte("F"), 0); return err },
		func(f vfs.File) error { return f.Truncate(100) },
		func(f vfs.File) error { return f.PunchHole(0, 1) },
		func(f vfs.File) error { return errors.Join(nil, ignoreUnsupported(f.CloneRange(f, 0, 0, 4096))) },
	}
	for i, change := range changes {
		must(t, change(files[i]))
	}
	wantText(t, files[4], 0, "file 4")
	wantText(t, files[5], 0, "file 5")
	wantOpen(t, p, m, 5) // four with changes, and the one just used
	fail.Store(true)
	wantErr(t, files[0].Sync(), boom)
	must(t, files[1].Close())
	wantText(t, files[4], 0, "file 4")
	wantOpen(t, p, m, 4) // a failed sync covers nothing
	fail.Store(false)
	for _, i := range []int{0, 2, 3} {
		must(t, files[i].Sync())
	}
	wantOpen(t, p, m, 2)
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	return err
}

// TestPoolSyncBesideWrite: a write that ends after a sync began is not covered.
func TestPoolSyncBesideWrite(t *testing.T) {
	inWrite, finish := make(chan bool), make(chan bool)
	var held atomic.Bool
	p, m, files := pooled(t, 2, 1, vfs.OnKind(vfs.OpWrite, func(op vfs.Op) error {
		if held.Load() && op.Path == "/0" {
			inWrite <- true
			<-finish
		}
		return nil
	}))
	held.Store(true)
	wrote := make(chan error)
	go func() {
		_, err := files[0].WriteAt([]byte("X"), 0)
		wrote <- err
	}()
	<-inWrite
	must(t, files[0].Sync())
	finish <- true
	must(t, <-wrote)
	wantText(t, files[1], 0, "file 1")
	wantOpen(t, p, m, 2)
}

func TestPoolNeverClosesFilesInUse(t *testing.T) {
	inRead, finish := make(chan bool), make(chan bool)
	var held atomic.Bool
	p, m, files := pooled(t, 4, 2, vfs.OnKind(vfs.OpRead, func(op vfs.Op) error {
		if held.Load() {
			inRead <- true
			<-finish
		}
		return nil
	}))
	held.Store(true)
	var readers sync.WaitGroup
	for i, f := range files {
		readers.Go(func() { wantText(t, f, 0, fmt.Sprint("file ", i)) })
		<-inRead
	}
	wantOpen(t, p, m, 4)
	held.Store(false)
	closed := make(chan error)
	go func() { closed <- files[0].Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed while in use: %v", err)
	default:
	}
	close(finish)
	readers.Wait()
	must(t, <-closed)
	must(t, files[1].Sync())
	wantOpen(t, p, m, 2)
}

func TestPoolUnlinkClosesIdleFiles(t *testing.T) {
	p, m, files := pooled(t, 2, 4, nil)
	write(t, files[0], 0, "unsynced")
	must(t, p.Remove("/0"))
	wantOpen(t, p, m, 1)
	if _, free, _ := m.Space("/"); free != 1<<40-4096 {
		t.Fatal("the removed file still takes space")
	}
	again := open(t, p, "/0", os.O_RDWR|os.O_CREATE)
	write(t, again, 0, "another")
	_, err := files[0].ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrNotExist)
	wantText(t, again, 0, "another")
	must(t, files[0].Close())
	wantErr(t, files[0].Close(), os.ErrClosed)
}

func TestPoolUnlinkLetsUsersFinish(t *testing.T) {
	inRead, finish := make(chan bool), make(chan bool)
	p, m, files := pooled(t, 1, 4, vfs.OnKind(vfs.OpRead, func(vfs.Op) error {
		inRead <- true
		<-finish
		return nil
	}))
	read := make(chan error)
	go func() {
		_, err := files[0].ReadAt(make([]byte, 6), 0)
		read <- err
	}()
	<-inRead
	must(t, p.Remove("/0"))
	wantOpen(t, p, m, 1)
	finish <- true
	must(t, <-read)
	wantOpen(t, p, m, 0)
}

func TestPoolFollowsRenames(t *testing.T) {
	p, m, files := pooled(t, 4, 1, nil)
	must(t, p.MkdirAll("/d/e", 0o755))
	must(t, p.Rename("/0", "/d/e/f"))
	must(t, p.Rename("/d", "/x"))
	must(t, p.Rename("/1", "/2"))
	wantText(t, files[3], 0, "file 3")
	wantText(t, files[0], 0, "file 0")
	wantText(t, files[1], 0, "file 1")
	_, err := files[2].ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrNotExist)
	must(t, p.Remove("/x/e/f"))
	_, err = files[0].ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrNotExist)
	wantOpen(t, p, m, 1)
}

func TestPoolSurvivesFailedOpens(t *testing.T) {
	boom := errors.New("boom")
	var fail atomic.Bool
	p, m, files := pooled(t, 2, 1, vfs.OnKind(vfs.OpOpen, func(vfs.Op) error {
		if fail.Load() {
			return boom
		}
		return nil
	}))
	fail.Store(true)
	_, err := files[0].ReadAt(make([]byte, 1), 0)
	wantErr(t, err, boom)
	_, err = p.OpenFile("/0", os.O_RDWR, 0)
	wantErr(t, err, boom)
	fail.Store(false)
	wantText(t, files[0], 0, "file 0")
	wantOpen(t, p, m, 1)
}

func TestPoolClonesFromClosedFiles(t *testing.T) {
	m := vfs.NewMem()
	m.SetReflink(true)
	p := vfs.NewPool(m, 1)
	src, dst := open(t, p, "/src", os.O_RDWR|os.O_CREATE), open(t, p, "/dst", os.O_RDWR|os.O_CREATE)
	write(t, src, 0, string(make([]byte, 4095))+"x")
	must(t, src.Sync())
	write(t, dst, 0, "dst")
	must(t, dst.Sync())
	must(t, dst.CloneRange(src, 0, 0, 4096))
	wantText(t, dst, 4095, "x")
}

// TestPoolStress uses, syncs, renames, removes and closes few files from many
// goroutines through a pool too small for them.
func TestPoolStress(t *testing.T) {
	p, m, files := pooled(t, 12, 3, nil)
	s := seed(t)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			rng := rngOf(s + uint64(w))
			for range 3000 {
				i := rng.IntN(len(files))
				f, name := files[i], fmt.Sprint("/", i)
				var err error
				switch rng.IntN(20) {
				case 0:
					err = p.Rename(name, name+".new")
					if err == nil {
						err = p.Rename(name+".new", name)
					}
				case 1:
					err = f.Sync()
				case 2, 3:
					_, err = f.WriteAt([]byte(fmt.Sprint("file ", i)), 0)
				default:
					got := make([]byte, 6)
					if _, err = f.ReadAt(got, 0); err == nil && string(got) != fmt.Sprint("file ", i)[:6] {
						t.Errorf("file %d reads %q", i, got)
					}
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) { // another renames it, too
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, f := range files {
		must(t, f.Sync())
	}
	if n := p.OpenCount(); n > 3 {
		t.Errorf("%d files are open", n)
	}
	for _, f := range files {
		must(t, f.Close())
	}
	wantOpen(t, p, m, 0)
}

func BenchmarkPool(b *testing.B) {
	m := vfs.NewMem()
	f := &nothing{File: open(b, m, "/f", os.O_RDWR|os.O_CREATE)}
	p := vfs.NewPool(fixed{FS: m, file: f}, 10)
	pf := open(b, p, "/f", os.O_RDWR)
	for name, file := range map[string]vfs.File{"below": f, "pooled": pf} {
		b.Run("read "+name, func(b *testing.B) {
			for b.Loop() {
				_, _ = file.ReadAt(nil, 0)
			}
		})
		b.Run("write "+name, func(b *testing.B) {
			for b.Loop() {
				_, _ = file.WriteAt(nil, 0)
			}
		})
		b.Run("parallel read "+name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, _ = file.ReadAt(nil, 0)
				}
			})
		})
	}
}

// nothing is a file whose reads and writes cost nothing.
type nothing struct{ vfs.File }

func (*nothing) ReadAt([]byte, int64) (int, error)  { return 0, nil }
func (*nothing) WriteAt([]byte, int64) (int, error) { return 0, nil }

// fixed opens one file only.
type fixed struct {
	vfs.FS
	file vfs.File
}

func (f fixed) OpenFile(string, int, os.FileMode) (vfs.File, error) { return f.file, nil }
