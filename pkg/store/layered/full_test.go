package layered_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// A store on a read-only mount does not start, and says why.
func TestReadOnlyDirectory(t *testing.T) {
	st, dir := newStore(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED read-only directory: bind mounts need root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	}()
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refusedStart(t, dir, syscall.EROFS, "read-only file system", "catalogue.db")
	if err := layered.Init(filepath.Join(dir, "new"), string(store.NewID())); err == nil {
		t.Error("a store was made in a read-only directory")
	}
}

// The layers' directory alone is read-only: the catalogue would take what no layer can.
func TestReadOnlyLayers(t *testing.T) {
	st, dir := newStore(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	layers := filepath.Join(dir, "layers")
	if err := syscall.Mount(layers, layers, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED read-only layers: bind mounts need root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(layers, 0); err != nil {
			t.Errorf("unmount %s: %v", layers, err)
		}
	}()
	if err := syscall.Mount("", layers, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refusedStart(t, dir, syscall.EROFS, "read-only file system", "layers")
}

// full is a store without space left, and what it held before.
type full struct {
	*lab
	image, parent, clone store.Info
	dev                  store.Device
	content              []byte
	names                []string
	used                 int64
}

func newFull(t *testing.T) *full {
	l := newLab(t, nil)
	f := &full{lab: l, parent: l.create("parent", mib), image: l.create("image", mib)}
	l.write(f.parent.ID, 0, mib, 1)
	f.clone = l.clone(l.snap(f.parent.ID, "s").ID, "clone")
	l.write(f.image.ID, 0, mib/2, 2)
	f.content = append(pattern(mib/2, 2), make([]byte, mib/2)...)
	l.idle()
	dev, err := l.st.Open(l.ctx, f.image.ID)
	l.must(err)
	f.dev = dev
	total, free, err := l.mem.Space("layers")
	l.must(err)
	f.used = total - free
	l.mem.SetCapacity(f.used)
	f.names, err = l.mem.List("layers")
	l.must(err)
	return f
}

// unchanged requires that what was refused has left nothing behind.
func (f *full) unchanged(after string) {
	f.Helper()
	names, err := f.mem.List("layers")
	f.must(err)
	if len(names) != len(f.names) {
		f.Errorf("%s left files: %v, before %v", after, names, f.names)
	}
	if _, free, _ := f.mem.Space("layers"); free != 0 {
		f.Errorf("%s changed the space taken", after)
	}
	if s := f.status(); s.Images != 3 || s.Snapshots != 1 {
		f.Errorf("%s left %d images and %d snapshots", after, s.Images, s.Snapshots)
	}
}

func TestFullStore(t *testing.T) {
	f := newFull(t)
	_, err := f.dev.WriteAt(pattern(8192, 3), mib/2)
	f.failed(err, store.ErrNoSpace, "image", "write")
	f.unchanged("a write")
	_, err = f.st.Create(f.ctx, store.Spec{Name: "new", Size: mib})
	f.failed(err, store.ErrNoSpace, "new")
	f.unchanged("a create")
	_, err = f.st.Create(f.ctx, store.Spec{Name: "new", Parent: f.clone.ParentSnapshot})
	f.failed(err, store.ErrNoSpace, "new")
	f.unchanged("a clone")
	_, err = f.st.Create(f.ctx, store.Spec{Name: "new", Parent: f.image.ID})
	f.failed(err, store.ErrNoSpace)
	f.unchanged("a clone of an image")
	_, err = f.st.Snapshot(f.ctx, f.image.ID, "new")
	f.failed(err, store.ErrNoSpace, "new", "image")
	f.unchanged("a snapshot")
	f.failed(f.st.Flatten(f.ctx, f.clone.ID), store.ErrNoSpace, "goes on")
	f.unchanged("a flatten")

	_, err = f.dev.WriteAt(pattern(8192, 4), 4096) // takes no new block
	f.must(err)
	copy(f.content[4096:], pattern(8192, 4))
	f.must(f.dev.Flush())
	f.want(f.image.ID, "image", f.content)
	f.want(f.clone.ID, "clone", pattern(mib, 1))
	for _, i := range []store.Info{f.image, f.parent, f.clone} {
		if now := f.stat(i.ID); now.State == store.StateReadOnly || now.State == store.StateFaulty {
			t.Errorf("%s is %s: %s", i.Name, now.State, now.Reason)
		}
	}
	f.spaceReturns()
}

func (f *full) spaceReturns() {
	f.Helper()
	f.mem.SetCapacity(f.used + 8*mib)
	f.must(f.st.Flatten(f.ctx, f.clone.ID))
	if d := f.stat(f.clone.ID).Depth; d != 0 {
		f.Errorf("after space returned the clone is at depth %d", d)
	}
	_, err := f.dev.WriteAt(pattern(8192, 5), mib/2)
	f.must(err)
	copy(f.content[mib/2:], pattern(8192, 5))
	f.must(f.dev.Flush())
	s := f.snap(f.image.ID, "new")
	f.must(f.dev.Close())
	f.want(f.clone.ID, "clone", pattern(mib, 1))
	f.want(s.ID, "the snapshot after space returned", f.content)
	f.clean()
	f.restart()
	f.clean()
	f.want(f.image.ID, "image", f.content)
}

// Removing works on a full store and gives it space again.
func TestFullStoreIsHelpedByRemoval(t *testing.T) {
	l := newLab(t, nil)
	parent := l.create("parent", mib)
	l.write(parent.ID, 0, mib, 1)
	c := l.clone(l.snap(parent.ID, "s").ID, "clone")
	ballast := l.create("ballast", 4*mib)
	l.write(ballast.ID, 0, 4*mib, 2)
	total, free, err := l.mem.Space("layers")
	l.must(err)
	l.mem.SetCapacity(total - free + mib/2)
	l.failed(l.st.Flatten(l.ctx, c.ID), store.ErrNoSpace)
	l.remove(ballast.ID)
	for _, j := range l.status().Jobs {
		if j.Kind == store.JobDelete {
			l.must(l.st.WatchJob(l.ctx, j.ID, func(store.Job) error { return nil }))
		}
	}
	l.must(l.st.Flatten(l.ctx, c.ID))
	if d := l.stat(c.ID).Depth; d != 0 {
		t.Errorf("with the space that a removal gave back the flatten left depth %d", d)
	}
	l.want(c.ID, "clone", pattern(mib, 1))
	l.clean()
}

// Below the reserve new work is refused before it begins.
func TestReserveIsKept(t *testing.T) {
	l := newLab(t, func(o *layered.Options) { o.Reserve = 4 * mib })
	i := l.create("image", mib)
	_, free, err := l.mem.Space("layers")
	l.must(err)
	l.mem.SetCapacity(1<<40 - free + 3*mib)
	_, err = l.st.Create(l.ctx, store.Spec{Name: "new", Size: mib})
	l.failed(err, store.ErrNoSpace, "reserve")
	_, err = l.st.Resize(l.ctx, i.ID, 2*mib)
	l.failed(err, store.ErrNoSpace, "reserve")
	s, err := l.st.Snapshot(l.ctx, i.ID, "to copy it away")
	l.must(err)
	l.must(l.st.Remove(l.ctx, s.ID))
	l.mem.SetCapacity(1<<40 - free + 3*mib/2)
	_, err = l.st.Snapshot(l.ctx, i.ID, "new")
	l.failed(err, store.ErrNoSpace, "reserve")
	l.write(i.ID, 0, mib, 1) // the reserve is for those who are served already
	l.clean()
}

// A shrink that could not clear what it cut off lets nothing of it reappear: not by
// growing again, and not through a snapshot.
func TestShrinkThatFailedHidesWhatItCutOff(t *testing.T) {
	for _, seal := range []bool{false, true} {
		l := newLab(t, nil)
		i := l.create("image", mib)
		l.write(i.ID, 0, mib, 1)
		l.fail(vfs.OnPath("*.map", vfs.OnKind(vfs.OpWrite, vfs.Always(os.ErrDeadlineExceeded))))
		if _, err := l.st.Resize(l.ctx, i.ID, mib/4); err == nil {
			t.Fatal("the shrink met no fault")
		}
		if _, err := l.st.Resize(l.ctx, i.ID, mib); err == nil {
			t.Error("an image grew over what a failed shrink had left")
		}
		l.fail(nil)
		if seal {
			l.snap(i.ID, "s")
		}
		_, err := l.st.Resize(l.ctx, i.ID, mib)
		l.must(err)
		l.want(i.ID, "image", append(pattern(mib, 1)[:mib/4], make([]byte, mib*3/4)...))
		l.clean()
	}
}
