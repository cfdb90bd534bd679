package vfs

import "maps"

// node is a file or a directory of a Mem.
type node struct {
	dir  bool
	file *memData // nil for directories
}

// place is where a node is found: a name in a directory.
type place struct {
	dir  *node
	name string
}

// nameKind is what happened to a name.
type nameKind int

const (
	nameCreated nameKind = iota
	nameRemoved
	nameMoved
)

// nameOp is one change of names. It is durable once no directory is left in owed.
type nameOp struct {
	kind     nameKind
	node     *node
	from, to place
	owed     []*node
}

// places are the names that the change decides.
func (op nameOp) places() []place {
	switch op.kind {
	case nameCreated:
		return []place{op.to}
	case nameRemoved:
		return []place{op.from}
	}
	return []place{op.from, op.to}
}

// names is a tree of names. A node has at most one name.
type names struct {
	entries map[*node]map[string]*node // by directory
	home    map[*node]place
}

func newNames(root *node) names {
	return names{entries: map[*node]map[string]*node{root: {}}, home: map[*node]place{}}
}

func (t names) clone() names {
	c := names{entries: make(map[*node]map[string]*node, len(t.entries)), home: maps.Clone(t.home)}
	for dir, in := range t.entries {
		c.entries[dir] = maps.Clone(in)
	}
	return c
}

// apply makes the change, also when changes before it were left out: afterwards
// the names it decides are as it says, and its node has no other name.
func (t names) apply(op nameOp) {
	switch op.kind {
	case nameCreated:
		t.put(op.to, op.node)
	case nameRemoved:
		t.drop(op.from)
	case nameMoved:
		if at, ok := t.home[op.node]; ok {
			t.drop(at)
		}
		t.drop(op.from)
		t.put(op.to, op.node)
	}
}

func (t names) put(at place, n *node) {
	t.drop(at)
	if t.entries[at.dir] == nil {
		t.entries[at.dir] = map[string]*node{}
	}
	t.entries[at.dir][at.name] = n
	t.home[n] = at
	if n.dir && t.entries[n] == nil {
		t.entries[n] = map[string]*node{}
	}
}

func (t names) drop(at place) {
	if n := t.entries[at.dir][at.name]; n != nil {
		delete(t.entries[at.dir], at.name)
		delete(t.home, n)
	}
}
