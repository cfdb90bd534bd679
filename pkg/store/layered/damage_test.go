package layered_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/vfs"
)

// refusedStart opens a store that must not open.
func refusedStart(t *testing.T, dir string, class error, words ...string) {
	t.Helper()
	o := testOptions(t)
	o.LockTimeout = 30 * time.Millisecond
	st, err := layered.Open(dir, o)
	if err == nil {
		st.Close()
	}
	(&rig{TB: t}).failed(err, class, append(words, dir)...)
}

func TestDirectoryInUse(t *testing.T) {
	st, dir := newStore(t)
	defer st.Close()
	refusedStart(t, dir, store.ErrInUse, "another process")
}

func TestDirectoryWithoutCatalogue(t *testing.T) {
	st, dir := newStore(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "catalogue.db")); err != nil {
		t.Fatal(err)
	}
	refusedStart(t, dir, store.ErrNotFound, "no catalogue", "--init")
	empty := scratch(t)
	refusedStart(t, empty, store.ErrNotFound, "no catalogue", "--init")
	if names, err := os.ReadDir(empty); err != nil || len(names) > 0 {
		t.Errorf("a refused start left %v in an empty directory (%v)", names, err)
	}
}

// editCatalogue changes the bytes of a closed store's catalogue.
func editCatalogue(t *testing.T, change func([]byte) []byte) (dir string) {
	t.Helper()
	st, dir := newStore(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "catalogue.db")
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDirectoryOfAnotherVersion(t *testing.T) {
	dir := editCatalogue(t, func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("version1"), []byte("version2"))
	})
	refusedStart(t, dir, store.ErrUnsupported, "version 2", "knows 1")
}

func TestCatalogueDamaged(t *testing.T) {
	for what, change := range map[string]func([]byte) []byte{
		"cut off":     func(b []byte) []byte { return b[:len(b)/2] },
		"empty":       func([]byte) []byte { return nil },
		"zeroes":      func(b []byte) []byte { return make([]byte, len(b)) },
		"no database": func(b []byte) []byte { return bytes.Repeat([]byte("strata? "), len(b)/8) },
	} {
		t.Run(what, func(t *testing.T) {
			refusedStart(t, editCatalogue(t, change), store.ErrCorrupt, "catalogue.db")
		})
	}
}

// damages are ways to lose a layer. Those of the second kind show only when its map
// is read.
var damages = map[string]struct {
	hidden bool
	words  string // of the reason
	harm   func(l *lab, layer string)
}{
	"map header": {false, "map file", func(l *lab, n string) {
		l.edit(n+".map", func(f vfs.File) error { return overwrite(f, 0, 8192, 0xa5) })
	}},
	"map blank": {false, "map file", func(l *lab, n string) {
		l.edit(n+".map", func(f vfs.File) error { return overwrite(f, 0, 8192, 0) })
	}},
	"map cut off": {false, "map file is cut off", func(l *lab, n string) {
		l.edit(n+".map", func(f vfs.File) error { return f.Truncate(9000) })
	}},
	"map empty": {false, "map file", func(l *lab, n string) {
		l.edit(n+".map", func(f vfs.File) error { return f.Truncate(0) })
	}},
	"map of another version": {false, "format version 7", func(l *lab, n string) {
		l.edit(n+".map", otherVersion)
	}},
	"data cut off": {false, "data file is cut off", func(l *lab, n string) {
		l.edit(n+".data", func(f vfs.File) error { return f.Truncate(4096) })
	}},
	"map missing":  {false, "map file layers/", func(l *lab, n string) { l.must(l.mem.Remove("layers/" + n + ".map")) }},
	"data missing": {false, "data file layers/", func(l *lab, n string) { l.must(l.mem.Remove("layers/" + n + ".data")) }},
	"both missing": {false, "missing", func(l *lab, n string) {
		l.must(l.mem.Remove("layers/" + n + ".map"))
		l.must(l.mem.Remove("layers/" + n + ".data"))
	}},
	"map page": {true, "map", func(l *lab, n string) {
		l.edit(n+".map", func(f vfs.File) error { return overwrite(f, 8192+2*(4<<20), 9216, 0x5a) })
	}},
}

func overwrite(f vfs.File, off, n int64, with byte) error {
	_, err := f.WriteAt(bytes.Repeat([]byte{with}, int(n)), off)
	return err
}

// otherVersion makes both headers those of a later format.
func otherVersion(f vfs.File) error {
	for off := int64(0); off < 8192; off += 4096 {
		b := make([]byte, 4096)
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(b[12:], 7)
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:], crc32.MakeTable(crc32.Castagnoli)))
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}

// family is a damaged image among relatives and strangers.
type family struct {
	*lab
	base, baseSnap, sibling, other store.Info
	victim, victimSnap, child      store.Info
	layer                          string // of victimSnap
}

const familySize = 256 << 10

func newFamily(t testing.TB) *family {
	l := newLab(t, nil)
	f := &family{lab: l, base: l.create("base", familySize)}
	l.write(f.base.ID, 0, familySize, 1)
	f.baseSnap = l.snap(f.base.ID, "s")
	f.sibling = l.clone(f.baseSnap.ID, "sibling")
	f.other = l.create("other", familySize)
	l.write(f.other.ID, 0, familySize, 2)
	layers := l.made(func() { f.victim = l.clone(f.baseSnap.ID, "victim") })
	f.layer = layers[0]
	l.write(f.victim.ID, 0, familySize/2, 3)
	f.victimSnap = l.snap(f.victim.ID, "v")
	f.child = l.clone(f.victimSnap.ID, "child")
	l.write(f.child.ID, 0, 4096, 4)
	return f
}

func (f *family) refusedOnes() []store.Info {
	return []store.Info{f.victim, f.victimSnap, f.child}
}

func (f *family) othersServe() {
	f.Helper()
	for _, i := range []store.Info{f.base, f.baseSnap, f.sibling} {
		f.want(i.ID, i.Ref(), pattern(familySize, 1))
	}
	f.want(f.other.ID, "other", pattern(familySize, 2))
	f.remove(f.snap(f.sibling.ID, "more").ID)
	n := f.clone(f.baseSnap.ID, "n")
	f.write(n.ID, 8192, 4096, 9)
	f.remove(n.ID)
}

// isRefused requires that an object is refused with its reason, by every call.
func (f *family) isRefused(i store.Info, hidden bool, words string) {
	f.Helper()
	dev, err := f.st.Open(f.ctx, i.ID)
	if hidden && err == nil {
		_, err = dev.ReadAt(make([]byte, i.Size), 0)
		f.must(dev.Close())
	}
	if err == nil || !strings.Contains(err.Error(), f.layer) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), i.Ref()) {
		f.Errorf("open %s answers %v, want layer %s and %q", i.Ref(), err, f.layer, words)
	}
	if _, err := f.st.Open(f.ctx, i.ID); err == nil {
		f.Errorf("%s was opened although it is known to be damaged", i.Ref())
	}
	now := f.stat(i.ID)
	if now.State != store.StateFaulty || !strings.Contains(now.Reason, words) {
		f.Errorf("%s is %q (%s), want faulty: %s", i.Ref(), now.State, now.Reason, words)
	}
	_, err = f.st.Create(f.ctx, store.Spec{Name: "no", Parent: i.ID})
	f.failed(err, store.ErrCorrupt, words, i.Ref())
	if i.Kind == store.KindImage {
		_, err = f.st.Snapshot(f.ctx, i.ID, "no")
		f.failed(err, store.ErrCorrupt, words)
		_, err = f.st.StartFlatten(f.ctx, i.ID)
		f.failed(err, store.ErrCorrupt, words)
	}
}

func TestDamagedLayer(t *testing.T) {
	for what, d := range damages {
		t.Run(what, func(t *testing.T) {
			f := newFamily(t)
			f.stop()
			d.harm(f.lab, f.layer)
			f.start()
			for _, i := range f.refusedOnes() {
				f.isRefused(i, d.hidden, d.words)
			}
			f.statusNames(d.words)
			f.othersServe()
			f.checkFinds(d.words)
			f.removeAll(what)
		})
	}
}

// Check finds damage before anybody opens the image.
func TestCheckFindsDamage(t *testing.T) {
	f := newFamily(t)
	f.stop()
	damages["map page"].harm(f.lab, f.layer)
	f.start()
	f.checkFinds("map")
	if now := f.stat(f.child.ID); now.State != store.StateFaulty {
		t.Errorf("after a check the image over a damaged layer is %q", now.State)
	}
}

func (f *family) statusNames(words string) {
	f.Helper()
	named := map[string]string{}
	for _, p := range f.status().Faulty {
		named[p.Object] = p.Text
	}
	for _, i := range f.refusedOnes() {
		if !strings.Contains(named[i.Ref()], words) {
			f.Errorf("status says of %s: %q", i.Ref(), named[i.Ref()])
		}
	}
	if len(named) != 3 {
		f.Errorf("status names %v", named)
	}
}

func (f *family) checkFinds(words string) {
	f.Helper()
	problems, err := f.st.Check(f.ctx, true)
	f.must(err)
	found := false
	for _, p := range problems {
		found = found || !p.Harmless && strings.Contains(p.Text, words)
		if !strings.Contains(p.Text, f.layer) {
			f.Errorf("check finds fault with more than the damaged layer: %+v", p)
		}
	}
	if !found {
		f.Errorf("check finds %v, want %q", problems, words)
	}
}

// removeAll removes what is refused, parents first, and nothing of it stays.
func (f *family) removeAll(what string) {
	f.Helper()
	f.remove(f.victim.ID)
	f.remove(f.victimSnap.ID)
	f.remove(f.child.ID)
	f.clean()
	for _, n := range f.layerNames() {
		if n == f.layer {
			f.Errorf("%s: the damaged layer is still there", what)
		}
	}
	if s := f.status(); len(s.Faulty) > 0 {
		f.Errorf("%s: status still names %v", what, s.Faulty)
	}
	f.want(f.sibling.ID, "sibling", pattern(familySize, 1))
	f.restart()
	f.clean()
}
