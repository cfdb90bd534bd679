package layered_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/storetest"
	"github.com/strata-csi/strata/pkg/vfs"
)

// directDir is a directory for a store on the disk of temporary files.
func directDir(t *testing.T) string {
	dir := t.TempDir()
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openDirect(t *testing.T, dir string) *layered.Store {
	t.Helper()
	o := testOptions(t)
	o.DirectIO, o.NoCatalogueSync = true, true
	st, err := layered.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Data files bypass the page cache and no other file does.
func TestDirectIOOpensDataFiles(t *testing.T) {
	dir := directDir(t)
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o600)
	if err != nil {
		t.Skipf("no direct I/O here: %v", err)
	}
	f.Close()
	st := openDirect(t, dir)
	defer st.Close()
	l := &rig{t, t.Context(), st, dir}
	i := l.create("image", mib)
	l.write(i.ID, 0, mib, 1)
	dev, err := st.Open(l.ctx, i.ID)
	l.must(err)
	defer dev.Close()
	l.must(dev.Flush())
	var data, others int
	for name, direct := range openFlags(t, dir) {
		switch {
		case strings.HasSuffix(name, ".data") && direct:
			data++
		case strings.HasSuffix(name, ".data") || direct:
			t.Errorf("%s bypasses the page cache: %v", name, direct)
		default:
			others++
		}
	}
	if data == 0 || others == 0 {
		t.Errorf("%d data files and %d others are open", data, others)
	}
}

// openFlags tells of the open files below a directory whether they are direct.
func openFlags(t *testing.T, dir string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || !strings.HasPrefix(to, dir) {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(info), "flags:")
		found[to] = parseOctal(strings.Fields(rest)[0])&syscall.O_DIRECT != 0
	}
	return found
}

func parseOctal(s string) (n int) {
	for _, c := range s {
		n = n<<3 | int(c-'0')
	}
	return n
}

// A disk that refuses is used through the page cache, and an event says so.
func TestDirectIORefused(t *testing.T) {
	l := newLab(t, func(o *layered.Options) { o.DirectIO = true })
	i := l.create("image", mib)
	l.write(i.ID, 0, mib, 1)
	l.want(i.ID, "the image", pattern(mib, 1))
	if !l.noted(".data", "refuses direct I/O") {
		t.Error("no event tells of it")
	}
}

func TestDirectIOConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("syncs of a real disk take most of a minute; runs without -short")
	}
	dirs := map[store.Full]string{}
	reopen := func(t *testing.T, dir string) store.Full {
		st := openDirect(t, dir)
		dirs[st] = dir
		return st
	}
	storetest.Run(t, func(t *testing.T) store.Full { return reopen(t, directDir(t)) }, storetest.Limits{
		CoarseUsage: true,
		Skip:        map[string]string{"TestSizesLargest": "files of most disks' file systems end at 16 TiB; TestConformance has it"},
		Reopen: func(t *testing.T, s store.Full) store.Full {
			if err := s.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			return reopen(t, dirs[s])
		},
	})
}

// directMachine is a machine whose store uses direct I/O and answers stably.
type directMachine struct{ *machine }

func (m directMachine) Open() (store.Full, error) {
	m.proc = vfs.NewFaulty(vfs.OS(), nil)
	o := testOptions(m.t)
	o.FS, o.NoCatalogueSync, o.DirectIO, o.StableAck = gatedFS{m.proc, &m.gate}, true, true, true
	o.OnEvent = func(layered.Event) {} // crashes make many
	proc := m.proc
	o.BeforeCommit = func() error {
		if proc.Crashed() {
			return vfs.ErrCrashed
		}
		return nil
	}
	st, err := layered.Open(m.dir, o)
	if err != nil {
		return nil, err
	}
	m.open = st
	return storetest.CountCloses(st), nil
}

func TestDirectIOModel(t *testing.T) {
	storetest.Model(t, func(t *testing.T) storetest.Machine {
		return directMachine{&machine{t: t, dir: directDir(t)}}
	}, storetest.Options{Seeds: 5})
}

// The crash and fault loops past the page cache, on a disk that takes whole blocks only.
func TestDirectIOCrashAtEveryChange(t *testing.T) {
	direct := func(t *testing.T) storetest.Disk {
		d := newDisk(t).(*disk)
		d.mem.SetDirectIO(true)
		d.tune = func(o *layered.Options) {
			o.DirectIO = true
			o.OnEvent = func(e layered.Event) {
				if strings.Contains(e.Text, "refuses direct I/O") {
					t.Error("the disk refuses direct I/O")
				}
			}
		}
		return d
	}
	stride := int64(5)
	if testing.Short() {
		stride = 17
	}
	storetest.CrashLoop(t, direct, storetest.LoopOptions{Programs: 1, Stride: stride})
	storetest.FaultLoop(t, direct, storetest.LoopOptions{Programs: 1, Stride: stride})
}
