package layered

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-csi/strata/pkg/flatten"
	"github.com/strata-csi/strata/pkg/jobs"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered/layer"
	"github.com/strata-csi/strata/pkg/store/layered/meta"
	"github.com/strata-csi/strata/pkg/store/layered/srcu"
	"github.com/strata-csi/strata/pkg/vfs"
)

const (
	catalogueFile = "catalogue.db"
	layersDir     = "layers"
)

// Options tune an embedded store. The zero value serves a real disk.
type Options struct {
	// FS is the file system of the layers; nil is the operating system's. The
	// catalogue is always a real file.
	FS vfs.FS
	// LayersDir overrides where FS keeps the layers; "" is "layers" in the store's
	// directory.
	LayersDir string
	// Policy is the clone depth policy of images that set none.
	Policy store.Policy
	// MapMemory bounds the resolved maps of all images, PageMemory the cached map
	// pages, in bytes; 0 is 64 MiB each.
	MapMemory, PageMemory int64
	// Workers is how many background jobs run at once; 0 is 2.
	Workers int
	// CopyRate bounds background copying, in bytes a second; 0 is no bound.
	CopyRate int64
	// Reserve is the free space below which new work is refused, in bytes; 0 is
	// 64 MiB, negative is none. Snapshots are made down to half of it.
	Reserve int64
	// StableAck answers writes, zeroes and discards only when they are on the disk, in
	// syncs that concurrent ones share: publications survive a power failure then.
	StableAck bool
	// DirectIO keeps the data of images out of the page cache. Where the file system
	// refuses, an event says so and the cache is used.
	DirectIO bool
	// AllocUnit is how much space is taken at once where an image is first written, in
	// bytes: a power of two from 4 KiB, which 0 means, too, to 1 MiB. Larger units keep
	// the files of heads in fewer pieces and cost space until the layer is sealed.
	AllocUnit int64
	// SumAfter is how long a sealed layer is left alone before its checksums are
	// computed; 0 is one minute, negative leaves them to scrubs.
	SumAfter time.Duration
	// ScrubEvery is how long after the beginning of a scrub the next one is queued; 0 is
	// never. ScrubRate bounds what scrubs read, in bytes a second; 0 is no bound.
	ScrubEvery time.Duration
	ScrubRate  int64
	// NoCatalogueSync is for tests that stage no power failure.
	NoCatalogueSync bool
	// BeforeCommit is asked before each commit of the catalogue and can fail it, for
	// tests that stop a store at every step.
	BeforeCommit func() error
	// LockTimeout is how long Open waits for another process to let go of the
	// store; 0 is one second.
	LockTimeout time.Duration
	// IdleAfter is how long an image must not be written to before it is marked
	// clean; 0 is 5 seconds, negative is never.
	IdleAfter time.Duration
	// OnEvent receives what an operator should know; nil drops it. It must not
	// call the store.
	OnEvent func(Event)
}

// Event is something an operator should know.
type Event struct {
	Object string
	Text   string
	Err    error
}

func (o Options) withDefaults(dir string) Options {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.LayersDir == "" {
		o.LayersDir = filepath.Join(dir, layersDir)
	}
	if o.Policy.Soft == 0 {
		o.Policy.Soft = flatten.DefaultSoft
	}
	if o.Policy.Hard == 0 {
		o.Policy.Hard = max(flatten.DefaultHard, o.Policy.Soft)
	}
	const defaultMemory = 64 << 20
	if o.MapMemory <= 0 {
		o.MapMemory = defaultMemory
	}
	if o.PageMemory <= 0 {
		o.PageMemory = defaultMemory
	}
	if o.Reserve == 0 {
		o.Reserve = 64 << 20
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.IdleAfter == 0 {
		o.IdleAfter = 5 * time.Second
	}
	if o.SumAfter == 0 {
		o.SumAfter = time.Minute
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	return o
}

// Store is an embedded store: one directory, owned by one process.
type Store struct {
	dir  string
	opts Options

	cat     *meta.DB
	pool    *vfs.Pool
	env     *layer.Env
	layers  *registry
	sums    *layerSums
	scrubs  scrubber
	resting resting
	cache   *cache
	jobs    *jobs.Queue
	gauge   *jobs.Load
	srcu    srcu.Domain
	keys    keyLocks
	ids     layerIDs

	closed    atomic.Bool // no call is admitted any more
	shut      atomic.Bool // nor is any request of a device
	tidying   sync.WaitGroup
	idle      sync.WaitGroup // the watchers of idle images and resting layers
	stopIdle  context.CancelFunc
	noReflink atomic.Bool
	copied    atomic.Int64
	retiring  sync.WaitGroup

	mu     sync.Mutex
	images map[store.ID]*image // in use
	views  map[*view]bool
	faulty map[meta.LayerID]string
	lost   map[meta.LayerID]bool
	owed   map[store.ID][]owedFence // by what was published
	// stalled says why flattens wait for space or a sync that succeeds.
	stalled map[store.ID]error
}

var (
	_ store.Full     = (*Store)(nil)
	_ store.Scrubber = (*Store)(nil)
)

// Init makes an empty store in a directory and gives it its identity. It refuses a
// directory that holds one already.
func Init(dir string, uuid string) error {
	if err := os.MkdirAll(filepath.Join(dir, layersDir), 0o700); err != nil {
		return fmt.Errorf("initialise store %s: %w", dir, err)
	}
	if err := meta.Create(filepath.Join(dir, catalogueFile), uuid); err != nil {
		return fmt.Errorf("initialise store %s: %w", dir, err)
	}
	return vfs.OS().SyncDir(dir)
}

// Open opens a store that Init made, finishes what a crash left half done and
// resumes its background jobs. Its cost follows what is published, not what exists.
func Open(dir string, o Options) (*Store, error) {
	o = o.withDefaults(dir)
	if err := checkAllocUnit(o.AllocUnit); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	path := filepath.Join(dir, catalogueFile)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open store %s: no catalogue; a new store is made with --init: %w", dir, errNotStore(err))
	}
	cat, err := meta.Open(path, meta.Options{NoSync: o.NoCatalogueSync, Timeout: o.LockTimeout, BeforeCommit: o.BeforeCommit})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	st, err := assemble(dir, o, cat)
	if err == nil {
		err = st.recover()
	}
	if err == nil {
		st.startIdle()
	}
	if err != nil {
		_ = cat.Close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return st, nil
}

func errNotStore(err error) error {
	if os.IsNotExist(err) {
		return store.ErrNotFound
	}
	return err
}

func assemble(dir string, o Options, cat *meta.DB) (*Store, error) {
	cacheID, err := o.FS.CacheID(o.LayersDir)
	if err != nil {
		return nil, err
	}
	st := &Store{dir: dir, opts: o, cat: cat,
		images: map[store.ID]*image{}, views: map[*view]bool{}, faulty: map[meta.LayerID]string{}, lost: map[meta.LayerID]bool{}, stalled: map[store.ID]error{}, owed: map[store.ID][]owedFence{}}
	st.pool = vfs.NewPool(st.layersFS(), poolSize(0))
	st.env = &layer.Env{FS: st.pool, Dir: o.LayersDir, CacheID: cacheID, Pages: layer.NewPageCache(o.PageMemory), AllocUnit: o.AllocUnit}
	st.layers = newRegistry(st.env)
	st.sums = newLayerSums(st.env)
	st.layers.onDamage = st.damaged
	st.layers.onLost = st.cacheLost
	st.layers.onPoison = st.poisonHead
	st.layers.onClose = func(id meta.LayerID, err error) {
		if errors.Is(err, store.ErrReadOnly) {
			st.poisonHead(id, err.Error())
		}
		st.opts.OnEvent(Event{fmt.Sprintf("layer %d", id), "closing it failed; its journal is replayed at the next use", err})
	}
	st.cache = &cache{budget: o.MapMemory}
	st.ids.st = st
	st.gauge = jobs.NewLoad()
	return st, nil
}

// Close implements store.Store. Devices that are still open end with ErrClosed.
func (st *Store) Close() error {
	if st.closed.Swap(true) {
		return fmt.Errorf("store %s: %w", st.dir, store.ErrClosed)
	}
	st.stopIdle()
	st.idle.Wait()
	jobsErr := st.jobs.Close()
	st.keys.drain()
	st.retiring.Wait()
	st.tidying.Wait()
	st.mu.Lock()
	images := st.images
	st.images = map[store.ID]*image{}
	st.mu.Unlock()
	var firstErr error
	for _, im := range images { // most of the work, while requests under way end
		if err := im.flush(); err != nil && firstErr == nil {
			firstErr = err
		}
	}
	st.shut.Store(true)
	for _, im := range images {
		im.gate.Lock()
		im.view.close()
		if im.head != nil {
			st.layers.release(im.head)
		}
		im.gate.Unlock()
	}
	if err := st.ids.giveBack(); err != nil && firstErr == nil {
		firstErr = err
	}
	if err := st.cat.Close(); err != nil && firstErr == nil {
		firstErr = err
	}
	if firstErr == nil {
		firstErr = jobsErr
	}
	return firstErr
}

// Abandon drops every handle without a sync or a write, as a crash of the process
// would. It is for tests of recovery.
func (st *Store) Abandon() {
	if st.closed.Swap(true) {
		return
	}
	st.shut.Store(true)
	st.stopIdle()
	st.jobs.Kill()
	st.layers.abandon()
	st.cat.Abandon()
	st.idle.Wait()
}

// lock takes the structural lock of an image or snapshot.
func (st *Store) lock(ctx context.Context, id store.ID) (unlock func(), err error) {
	return st.keys.lock(ctx, string(id))
}

func (st *Store) alive() error {
	if st.closed.Load() {
		return fmt.Errorf("store %s: %w", st.dir, store.ErrClosed)
	}
	return nil
}

func (st *Store) addView(v *view) {
	st.mu.Lock()
	st.views[v] = true
	st.mu.Unlock()
}

func (st *Store) dropView(v *view) {
	st.mu.Lock()
	delete(st.views, v)
	st.mu.Unlock()
}

// viewsWith lists the views whose chain contains a layer.
func (st *Store) viewsWith(id meta.LayerID) []*view {
	st.mu.Lock()
	all := make([]*view, 0, len(st.views))
	for v := range st.views {
		all = append(all, v)
	}
	st.mu.Unlock()
	with := all[:0]
	for _, v := range all {
		if v.has(id) {
			with = append(with, v)
		}
	}
	return with
}

// rebuildViews takes the chains of all views with one of the layers anew.
func (st *Store) rebuildViews(ids ...meta.LayerID) {
	seen := map[*view]bool{}
	for _, id := range ids {
		for _, v := range st.viewsWith(id) {
			if seen[v] {
				continue
			}
			seen[v] = true
			if err := v.rebuild(); err != nil {
				// The old chain stays: it shows the same bytes, and its layers stay
				// open and are not removed while it refers to them.
				st.opts.OnEvent(Event{v.name, "its layers could not be listed anew", err})
			}
		}
	}
}

// retire releases links once no reader can hold a run in them.
func (st *Store) retire(links []link) {
	if len(links) == 0 {
		return
	}
	st.srcu.Wait()
	for _, l := range links {
		st.layers.release(l.ref)
		if l.group != nil {
			l.group.close()
		}
	}
}

// Syncs is how many times the catalogue was made durable since it was opened.
func (st *Store) Syncs() int64 { return st.cat.Syncs() }

// UUID is the store's identity.
func (st *Store) UUID() string { return st.cat.UUID() }
