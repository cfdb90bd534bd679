package layer

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/vfs"
)

// Env is where layers live. It is shared by all layers of a store and must not
// be changed once the first one was made or opened.
type Env struct {
	// FS holds the files.
	FS vfs.FS
	// Dir is the directory of all layer files. It must exist.
	Dir string
	// CacheID is FS.CacheID(Dir) as of the start of the store, at most 512 bytes.
	CacheID string
	// Pages caches clean map pages; nil caches none.
	Pages *PageCache
	// JournalHalf is the size of each journal half of new layers, in bytes, a
	// multiple of 4096 from 4096 to 256 MiB; 0 means 4 MiB.
	JournalHalf int64
	// MaxDirty is how many map pages of one layer may differ from the disk before
	// a checkpoint is started, in pages of 64 MiB of image each; 0 means 1024.
	MaxDirty int
	// AllocUnit is how much space of a data file is taken at once when a block in it is
	// written, in bytes: a power of two from MinAllocUnit, which 0 means, too, to
	// MaxAllocUnit.
	AllocUnit int64
}

const (
	dataSuffix = ".data"
	mapSuffix  = ".map"
)

// DataPath is the name of a layer's data file.
func (e *Env) DataPath(id uint64) string {
	return path.Join(e.Dir, fmt.Sprintf("%016x", id)+dataSuffix)
}

// MapPath is the name of a layer's map file.
func (e *Env) MapPath(id uint64) string { return path.Join(e.Dir, fmt.Sprintf("%016x", id)+mapSuffix) }

// ParseName tells which layer a file in Dir belongs to; ok is false for others.
func ParseName(name string) (id uint64, ok bool) {
	hex, isData := strings.CutSuffix(name, dataSuffix)
	if !isData {
		var isMap bool
		if hex, isMap = strings.CutSuffix(name, mapSuffix); !isMap {
			return 0, false
		}
	}
	id, err := strconv.ParseUint(hex, 16, 64)
	return id, err == nil && fmt.Sprintf("%016x", id) == hex
}

// List tells the numbers of all layers that have at least one file, ascending.
func List(e *Env) ([]uint64, error) {
	names, err := e.FS.List(e.Dir)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var ids []uint64
	for _, name := range names { // sorted, and so are fixed-width numbers
		id, ok := ParseName(name)
		if ok && (len(ids) == 0 || ids[len(ids)-1] != id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (e *Env) half() int64 {
	if e.JournalHalf == 0 {
		return defaultHalf
	}
	return e.JournalHalf
}

func (e *Env) maxDirty() int {
	if e.MaxDirty == 0 {
		return 1024
	}
	return e.MaxDirty
}

// fault adds operation and layer to err, and the class for a full file system.
func fault(id uint64, op string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("layer %016x: %s: %w: %w", id, op, store.ErrNoSpace, err)
	}
	return fmt.Errorf("layer %016x: %s: %w", id, op, err)
}
