package vfs

import (
	"container/list"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

// Pool is an FS that keeps at most a number of files of the one below open. Files
// that it hands out stay valid: the pool closes idle ones, least recently used
// first, and opens them anew when they are used. OpenFile opens at once, so its
// errors are those of the file system below.
//
// A file in use, or with writes that no successful Sync has covered, is never
// closed: the error of a sync reaches only those that have the file open. When all
// files are like that the pool exceeds its limit rather than fail.
//
// Remove, and Rename onto a name, withdraw the name's files: idle ones are closed
// at once, busy ones when they become idle; they answer fs.ErrNotExist from then
// on. They are never mistaken for a new file of that name. Files follow a
// Rename of their own, or of a directory above them.
type Pool struct {
	fs  FS
	max int

	// moves is held shared to open a file by its name, exclusively to change names.
	moves sync.RWMutex

	mu     sync.Mutex
	byName map[string]map[*poolFile]struct{}
	idle   *list.List // of open *poolFile, the next to look at for closing in front
	count  int        // descriptors open or being opened
	over   atomic.Bool
}

// NewPool keeps at most max files of fs open; less than 1 means 1.
func NewPool(fs FS, max int) *Pool {
	if max < 1 {
		max = 1
	}
	return &Pool{fs: fs, max: max, byName: map[string]map[*poolFile]struct{}{}, idle: list.New()}
}

// SetMax changes how many files are kept open; less than 1 means 1.
func (p *Pool) SetMax(files int) {
	p.mu.Lock()
	p.max = max(files, 1)
	p.mu.Unlock()
	p.trim()
}

// OpenCount is the number of files open below.
func (p *Pool) OpenCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// OpenFile opens below at once; later openings leave out O_CREATE, O_EXCL and
// O_TRUNC.
func (p *Pool) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	p.moves.RLock()
	defer p.moves.RUnlock()
	f := &poolFile{pool: p, name: name, flag: flag &^ (os.O_CREATE | os.O_EXCL | os.O_TRUNC)}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.reserve()
	inner, err := p.fs.OpenFile(name, flag, perm)
	if err != nil {
		p.unreserve()
		return nil, err
	}
	f.file = inner
	p.mu.Lock()
	defer p.mu.Unlock()
	p.register(f)
	f.at = p.idle.PushBack(f)
	return f, nil
}

// Remove withdraws the files of that name.
func (p *Pool) Remove(name string) error {
	p.moves.Lock()
	defer p.moves.Unlock()
	if err := p.fs.Remove(name); err != nil {
		return err
	}
	p.withdraw(name)
	return nil
}

// Rename moves files along and withdraws those of the name it replaces.
func (p *Pool) Rename(from, to string) error {
	p.moves.Lock()
	defer p.moves.Unlock()
	if err := p.fs.Rename(from, to); err != nil {
		return err
	}
	from, to = path.Clean(from), path.Clean(to)
	if from == to {
		return nil
	}
	p.withdraw(to)
	p.mu.Lock()
	defer p.mu.Unlock()
	var moved []*poolFile
	for name, files := range p.byName {
		if name == from || strings.HasPrefix(name, from+"/") {
			for f := range files {
				moved = append(moved, f)
			}
		}
	}
	for _, f := range moved {
		p.unregister(f)
		f.name = to + strings.TrimPrefix(path.Clean(f.name), from)
		p.register(f)
	}
	return nil
}

// MkdirAll implements FS.
func (p *Pool) MkdirAll(name string, perm os.FileMode) error { return p.fs.MkdirAll(name, perm) }

// List implements FS.
func (p *Pool) List(name string) ([]string, error) { return p.fs.List(name) }

// SyncDir implements FS.
func (p *Pool) SyncDir(name string) error { return p.fs.SyncDir(name) }

// Space implements FS.
func (p *Pool) Space(name string) (total, free int64, err error) { return p.fs.Space(name) }

// CacheID implements FS.
func (p *Pool) CacheID(name string) (string, error) { return p.fs.CacheID(name) }

// withdraw cuts the files of a name off from it. The caller holds moves.
func (p *Pool) withdraw(name string) {
	p.mu.Lock()
	var files []*poolFile
	for f := range p.byName[path.Clean(name)] {
		files = append(files, f)
	}
	for _, f := range files {
		p.unregister(f)
		f.gone.Store(true)
	}
	p.mu.Unlock()
	for _, f := range files {
		f.retire()
	}
}

// register and unregister keep byName. The caller holds mu.
func (p *Pool) register(f *poolFile) {
	key := path.Clean(f.name)
	if p.byName[key] == nil {
		p.byName[key] = map[*poolFile]struct{}{}
	}
	p.byName[key][f] = struct{}{}
}

func (p *Pool) unregister(f *poolFile) {
	key := path.Clean(f.name)
	delete(p.byName[key], f)
	if len(p.byName[key]) == 0 {
		delete(p.byName, key)
	}
}

// reserve makes room for one more descriptor and counts it.
func (p *Pool) reserve() {
	p.mu.Lock()
	p.count++
	p.mu.Unlock()
	p.trim()
}

func (p *Pool) unreserve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count--
	p.over.Store(p.count > p.max)
}

// detach takes a file that is about to be closed off the books. The caller holds
// the file's mu and has shut it.
func (p *Pool) detach(f *poolFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detachLocked(f)
}

func (p *Pool) detachLocked(f *poolFile) {
	p.idle.Remove(f.at)
	f.at = nil
	p.count--
	p.over.Store(p.count > p.max)
}

// trim closes files until the limit is kept or none can be closed. The caller may
// hold the mu of one file that is not open.
func (p *Pool) trim() {
	for {
		victim := p.victim()
		if victim == nil {
			return
		}
		// A clean file has no error left to tell.
		victim.file.Close()
		victim.file = nil
		victim.mu.Unlock()
	}
}

// victim finds a file to close and returns it locked, shut and off the books. Each
// file used since the last look is passed over once; that makes the order one of
// least recent use without any work when a file is used.
func (p *Pool) victim() *poolFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over.Store(p.count > p.max)
	for looks := 2 * p.idle.Len(); looks > 0 && p.count > p.max; looks-- {
		f := p.idle.Front().Value.(*poolFile)
		p.idle.MoveToBack(f.at)
		if f.used.Swap(false) && !f.gone.Load() {
			continue
		}
		// The order is file, then pool; here it is the other way round, so no waiting.
		if !f.mu.TryLock() {
			continue
		}
		if f.shut() {
			p.detachLocked(f)
			return f
		}
		f.mu.Unlock()
	}
	return nil
}

var _ FS = (*Pool)(nil)

// forget drops a closed file from byName.
func (p *Pool) forget(f *poolFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !f.gone.Load() {
		p.unregister(f)
	}
}
