package layered_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/storetest"
	"github.com/strata-csi/strata/pkg/vfs"
)

// machine keeps a store on the machine's own file system, through closes and crashes
// of the process: the page cache stays.
type machine struct {
	t    *testing.T
	dir  string
	gate storetest.Gate
	proc *vfs.Faulty
	open *layered.Store
	tune func(*layered.Options) // nil for none
}

func newMachine(t *testing.T) storetest.Machine {
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	return &machine{t: t, dir: dir}
}

func (m *machine) Open() (store.Full, error) {
	proc := vfs.NewFaulty(vfs.OS(), nil)
	o := testOptions(m.t)
	o.FS, o.NoCatalogueSync = gatedFS{proc, &m.gate}, true
	o.OnEvent = func(layered.Event) {} // crashes make many
	o.BeforeCommit = alive(proc, func() error { return nil })
	if m.tune != nil {
		m.tune(&o)
	}
	m.proc = proc
	st, err := layered.Open(m.dir, o)
	if err != nil {
		return nil, err
	}
	m.open = st
	return storetest.CountCloses(st), nil
}

// alive refuses a commit of a process that has crashed: a job that the crash ended would
// be recorded as one that failed.
func alive(proc *vfs.Faulty, commit func() error) func() error {
	return func() error {
		if proc.Crashed() {
			return vfs.ErrCrashed
		}
		return commit()
	}
}

// Gate implements storetest.Gated.
func (m *machine) Gate() *storetest.Gate { return &m.gate }

// Crash ends all that the old store could still do before it lets go of its files: a
// goroutine of it that lived on would be no crash.
func (m *machine) Crash() error {
	m.proc.Crash()
	m.open.Abandon()
	return nil
}

// disk keeps a store's layers on a disk in memory that can stop, fail and lose what
// was not synced. The catalogue is a real file whose commits are durable at once and
// count as changes like any other.
type disk struct {
	t   *testing.T
	dir string
	mem *vfs.Mem

	proc *vfs.Faulty
	open *layered.Store
	tune func(*layered.Options) // nil for none

	changes atomic.Int64
	stopAt  atomic.Int64
	failAt  atomic.Int64
	hit     atomic.Bool
}

var errFault = errors.New("the disk failed this once")

func newDisk(t *testing.T) storetest.Disk {
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	mem := vfs.NewMem()
	if err := errors.Join(mem.MkdirAll("layers", 0o700), mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	return &disk{t: t, dir: dir, mem: mem}
}

func (d *disk) Open() (store.Full, error) {
	d.proc = vfs.NewFaulty(d.mem, vfs.OnKind(vfs.Mutating, func(vfs.Op) error { return d.change() }))
	o := testOptions(d.t)
	o.FS, o.LayersDir, o.NoCatalogueSync = d.proc, "layers", true
	o.BeforeCommit = alive(d.proc, d.change)
	o.OnEvent = func(layered.Event) {} // thousands of rounds
	if d.tune != nil {
		d.tune(&o)
	}
	st, err := layered.Open(d.dir, o)
	if err != nil {
		return nil, err
	}
	d.open = st
	return storetest.CountCloses(st), nil
}

// change is asked before every change of the disk.
func (d *disk) change() error {
	n := d.changes.Add(1)
	if k := d.stopAt.Load(); k != 0 && n >= k {
		d.hit.Store(true)
		return vfs.ErrCrashed
	}
	if k := d.failAt.Load(); k != 0 && n == k {
		d.hit.Store(true)
		return errFault
	}
	return nil
}

func (d *disk) arm(at *atomic.Int64, k int64) {
	d.changes.Store(0)
	d.hit.Store(false)
	d.stopAt.Store(0)
	d.failAt.Store(0)
	at.Store(k)
}

func (d *disk) StopAt(k int64) { d.arm(&d.stopAt, k) }
func (d *disk) FailAt(k int64) { d.arm(&d.failAt, k) }
func (d *disk) Hit() bool      { return d.hit.Load() }

func (d *disk) end() {
	d.proc.Crash()
	d.open.Abandon()
	d.arm(&d.stopAt, 0)
}

func (d *disk) Crash() error {
	d.end()
	d.mem.ProcessCrash()
	return nil
}

func (d *disk) PowerCut(rng *rand.Rand) error {
	d.end()
	d.mem = d.mem.PowerCut(rng)
	return nil
}

func TestModel(t *testing.T) {
	o := storetest.Options{}
	if testing.Short() {
		o.Seeds = 10
	}
	storetest.Model(t, newMachine, o)
}

// programs is how many random programs the loops run.
func programs() int {
	if testing.Short() {
		return 1
	}
	return 4
}

func TestCrashAtEveryChange(t *testing.T) {
	storetest.CrashLoop(t, newDisk, storetest.LoopOptions{Programs: programs()})
}

func TestFaultAtEveryChange(t *testing.T) {
	storetest.FaultLoop(t, newDisk, storetest.LoopOptions{Programs: programs()})
}
