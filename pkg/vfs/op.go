package vfs

import (
	"fmt"
	"strings"
)

// Kind is what an operation does. Kinds are bits, so a set of them is a Kind.
type Kind uint32

const (
	// OpCreate is OpenFile with O_CREATE or O_TRUNC, whether or not the file exists.
	OpCreate Kind = 1 << iota
	// OpOpen is OpenFile without them.
	OpOpen
	OpRemove
	OpRename
	OpMkdir
	OpList
	OpSyncDir
	OpSpace
	OpCacheID
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpSize
	OpAllocated
	OpPunch
	OpClone
	OpDropCache
	OpClose
	OpAllocate

	// Mutating is every kind that changes a disk or what is durable on it.
	Mutating = OpCreate | OpRemove | OpRename | OpMkdir | OpSyncDir | OpWrite | OpSync | OpTruncate | OpPunch | OpClone | OpAllocate
	// Every is all kinds.
	Every = OpAllocate<<1 - 1
)

var kindNames = [...]string{"create", "open", "remove", "rename", "mkdir", "list", "syncdir", "space",
	"cacheid", "read", "write", "sync", "truncate", "size", "allocated", "punch", "clone", "dropcache", "close", "allocate"}

// String joins the names of the kinds in the set with "|".
func (k Kind) String() string {
	var in []string
	for i, name := range kindNames {
		if k&(1<<i) != 0 {
			in = append(in, name)
		}
	}
	return strings.Join(in, "|")
}

// Op describes one operation before it is done.
type Op struct {
	Kind Kind
	// Path as the caller gave it; for files, to OpenFile.
	Path string
	// To is where OpRename goes.
	To string
	// Offset and Length are bytes, for operations on a range. OpTruncate has the new
	// size as Offset.
	Offset, Length int64
}

// String is the operation as test output shows it.
func (op Op) String() string {
	switch {
	case op.Kind == OpRename:
		return fmt.Sprintf("rename %s to %s", op.Path, op.To)
	case op.Kind == OpTruncate:
		return fmt.Sprintf("truncate %s to %d", op.Path, op.Offset)
	case op.Kind&(OpRead|OpWrite|OpPunch|OpClone|OpDropCache|OpAllocate) != 0:
		return fmt.Sprintf("%s %s [%d,+%d)", op.Kind, op.Path, op.Offset, op.Length)
	}
	return fmt.Sprintf("%s %s", op.Kind, op.Path)
}
