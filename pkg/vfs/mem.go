package vfs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrStale is the answer of a Mem's file that was open when the process crashed.
var ErrStale = errors.New("file was open in a process that crashed")

// Mem is a disk in memory, for tests of crashes. It is an FS; "/" exists.
//
// It remembers, in order, every write, truncation, hole and change of names that
// no sync has made durable. PowerCut then answers what a disk could look like.
// Writes of a file are forgotten (counted as durable) only beyond maxUnsynced of
// them, as a kernel writes back on its own, too.
//
// All methods may be called concurrently.
type Mem struct {
	mu      sync.RWMutex // exclusive: names, crashes; shared: file content
	root    *node
	live    names    // as processes see it
	stable  names    // as it is on disk
	pending []nameOp // from stable to live, in order
	epoch   uint64   // rises with ProcessCrash
	cacheID string
	cuts    *atomic.Int64 // cache ids given out in this line of disks
	reflink bool
	direct  bool

	capacity int64        // bytes
	used     atomic.Int64 // pages of files that have a name or are open
	handles  atomic.Int64
}

// NewMem is an empty disk of 1 TiB without reflink.
func NewMem() *Mem {
	root := &node{dir: true}
	return &Mem{
		root: root, live: newNames(root), stable: newNames(root),
		cacheID: "mem-0", cuts: new(atomic.Int64), capacity: 1 << 40,
	}
}

// SetCapacity sets the size of the disk in bytes. Writes that need more fail with
// ENOSPC and change nothing.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// SetReflink says whether CloneRange works (whole pages of 4096 bytes) or answers
// ErrUnsupported.
func (m *Mem) SetReflink(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reflink = on
}

// SetDirectIO says whether files can be made to take only what direct I/O takes:
// offsets, lengths and memory in multiples of 4096 bytes. It models no more of it: what
// is written is durable after a Sync, not before.
func (m *Mem) SetDirectIO(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.direct = on
}

// OpenCount is the number of files open now, for tests that look for leaks.
func (m *Mem) OpenCount() int { return int(m.handles.Load()) }

// Unsynced is the number of changes that a PowerCut may drop.
func (m *Mem) Unsynced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.pending)
	for f := range m.files() {
		n += len(f.unsynced)
	}
	return n
}

// OpenFile honours the access mode, O_CREATE, O_EXCL and O_TRUNC, ignores other
// flags and perm, and does not open directories.
func (m *Mem) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, n, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, syscall.ENOENT)
	case n == nil:
		n = &node{file: newMemData()}
		m.change(nameOp{kind: nameCreated, node: n, to: at, owed: []*node{at.dir}})
	case flag&os.O_EXCL != 0 && flag&os.O_CREATE != 0:
		return nil, pathError("open", name, syscall.EEXIST)
	case n.dir:
		return nil, pathError("open", name, syscall.EISDIR)
	}
	if flag&os.O_TRUNC != 0 && n.file.live.size > 0 {
		m.used.Add(n.file.truncate(0))
	}
	n.file.opens.Add(1)
	m.handles.Add(1)
	return &memFile{m: m, d: n.file, name: name, mode: flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR), epoch: m.epoch}, nil
}

// Remove leaves open files of that name usable, as the OS does.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, n, err := m.find("remove", name)
	switch {
	case err != nil:
		return err
	case n == nil:
		return pathError("remove", name, syscall.ENOENT)
	case n == m.root:
		return pathError("remove", name, syscall.EBUSY)
	case n.dir && len(m.live.entries[n]) > 0:
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	m.change(nameOp{kind: nameRemoved, node: n, from: at, owed: []*node{at.dir}})
	m.unlinked(n)
	return nil
}

// Rename replaces a file or an empty directory, as rename(2) does.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	src, n, err := m.find("rename", from)
	if err != nil {
		return err
	}
	dst, old, err := m.find("rename", to)
	switch {
	case err != nil:
		return err
	case n == nil:
		return pathError("rename", from, syscall.ENOENT)
	case n == old:
		return nil
	case n == m.root || old == m.root || m.holds(n, dst.dir):
		return pathError("rename", from, syscall.EINVAL)
	case old != nil && old.dir && !n.dir:
		return pathError("rename", to, syscall.EISDIR)
	case old != nil && !old.dir && n.dir:
		return pathError("rename", to, syscall.ENOTDIR)
	case old != nil && len(m.live.entries[old]) > 0:
		return pathError("rename", to, syscall.ENOTEMPTY)
	}
	owed := []*node{src.dir}
	if dst.dir != src.dir {
		owed = append(owed, dst.dir)
	}
	m.change(nameOp{kind: nameMoved, node: n, from: src, to: dst, owed: owed})
	if old != nil {
		m.unlinked(old)
	}
	return nil
}

// MkdirAll makes each directory a name change of its parent.
func (m *Mem) MkdirAll(name string, _ os.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.root
	for _, part := range split(name) {
		n := m.live.entries[at][part]
		if n == nil {
			n = &node{dir: true}
			m.change(nameOp{kind: nameCreated, node: n, to: place{at, part}, owed: []*node{at}})
		}
		if !n.dir {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		at = n
	}
	return nil
}

// List is sorted.
func (m *Mem) List(name string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	dir, err := m.findDir("list", name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(m.live.entries[dir])), nil
}

// SyncDir settles the directory's part of each change; a rename between two
// directories is durable when both were synced.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.findDir("sync", name)
	if err != nil {
		return err
	}
	left := m.pending[:0]
	undecided := map[place]bool{} // by an earlier change that may still be dropped
	for _, op := range m.pending {
		op.owed = slices.DeleteFunc(slices.Clone(op.owed), func(d *node) bool { return d == dir })
		if len(op.owed) == 0 && !slices.ContainsFunc(op.places(), func(p place) bool { return undecided[p] }) {
			m.stable.apply(op)
			continue
		}
		for _, p := range op.places() {
			undecided[p] = true
		}
		left = append(left, op)
	}
	clear(m.pending[len(left):])
	m.pending = left
	return nil
}

// Space counts pages of 4096 bytes, directories are free of charge.
func (m *Mem) Space(string) (total, free int64, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.capacity, max(0, m.capacity-m.used.Load()*pageSize), nil
}

// CacheID is the same for the whole disk; PowerCut changes it.
func (m *Mem) CacheID(string) (string, error) { return m.cacheID, nil }

// change applies op for the processes and remembers it as not durable.
func (m *Mem) change(op nameOp) {
	m.live.apply(op)
	m.pending = append(m.pending, op)
}

// unlinked accounts for a file that lost its name.
func (m *Mem) unlinked(n *node) {
	if n.dir {
		delete(m.live.entries, n)
		return
	}
	n.file.unlinked = true
	if n.file.opens.Load() == 0 {
		m.used.Add(-int64(len(n.file.live.pages)))
	}
}

// find resolves all of name but its last part, which need not exist.
func (m *Mem) find(op, name string) (place, *node, error) {
	parts := split(name)
	if len(parts) == 0 {
		return place{}, m.root, nil
	}
	last := len(parts) - 1
	dir := m.root
	for _, part := range parts[:last] {
		next := m.live.entries[dir][part]
		if next == nil {
			return place{}, nil, pathError(op, name, syscall.ENOENT)
		}
		if !next.dir {
			return place{}, nil, pathError(op, name, syscall.ENOTDIR)
		}
		dir = next
	}
	return place{dir, parts[last]}, m.live.entries[dir][parts[last]], nil
}

func (m *Mem) findDir(op, name string) (*node, error) {
	_, n, err := m.find(op, name)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, pathError(op, name, syscall.ENOENT)
	case !n.dir:
		return nil, pathError(op, name, syscall.ENOTDIR)
	}
	return n, nil
}

// holds tells whether dir is n or below it.
func (m *Mem) holds(n, dir *node) bool {
	for dir != m.root {
		if dir == n {
			return true
		}
		dir = m.live.home[dir].dir
	}
	return false
}

func split(name string) []string {
	clean := strings.Trim(path.Clean("/"+name), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

func pathError(op, name string, err error) error {
	return &os.PathError{Op: op, Path: name, Err: err}
}

// String names the disk in test output.
func (m *Mem) String() string { return fmt.Sprintf("memory disk %s", m.cacheID) }
