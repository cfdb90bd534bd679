// Package tree draws the lineage of a store: which image was cloned from which, with
// snapshots between them and with removed ancestors where they still matter.
//
// A removed ancestor is shown when something that lives still names it: a snapshot
// that outlived its image, or a clone whose parent has gone. What lay above a removed
// ancestor is not known any more; the depth of its children tells how much it was.
package tree

import (
	"cmp"
	"slices"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// Node is one image or snapshot in the tree.
type Node struct {
	// Name as a user writes it.
	Name string     `json:"name"`
	ID   store.ID   `json:"id"`
	Kind store.Kind `json:"kind"`
	// Removed: it exists no more; sizes and usage are not known.
	Removed bool         `json:"removed,omitempty"`
	Depth   int          `json:"depth"`
	Size    int64        `json:"size,omitempty"`
	State   store.State  `json:"state,omitempty"`
	Usage   *store.Usage `json:"usage,omitempty"`
	// Flatten is the job that will cut this image's clone link, if there is one.
	Flatten  *store.Job `json:"flatten,omitempty"`
	Children []*Node    `json:"children,omitempty"`

	above *Node
}

// Build returns the roots for the objects of a store. usage and jobs may lack
// objects; those are drawn without.
func Build(all []store.Info, usage map[store.ID]store.Usage, jobs []store.Job) []*Node {
	b := builder{nodes: make(map[store.ID]*Node)}
	for _, i := range all {
		b.add(i, usage)
	}
	for _, j := range jobs {
		if n := b.nodes[store.ID(j.Target)]; n != nil && j.Kind == store.JobFlatten {
			n.Flatten = &j
		}
	}
	for _, i := range all {
		b.link(i)
	}
	return b.finish()
}

type builder struct {
	nodes map[store.ID]*Node
	order []*Node
}

func (b *builder) add(i store.Info, usage map[store.ID]store.Usage) {
	n := &Node{Name: i.Ref(), ID: i.ID, Kind: i.Kind, Depth: i.Depth, Size: i.Size, State: i.State}
	if u, ok := usage[i.ID]; ok {
		n.Usage = &u
	}
	b.nodes[i.ID] = n
	b.order = append(b.order, n)
}

// removed finds or makes the node of an image that is gone.
func (b *builder) removed(id store.ID, name string, depth int) *Node {
	if n := b.nodes[id]; n != nil {
		return n
	}
	n := &Node{Name: name, ID: id, Kind: store.KindImage, Removed: true, Depth: depth}
	b.nodes[id] = n
	b.order = append(b.order, n)
	return n
}

// link hangs an object below what it came from.
func (b *builder) link(i store.Info) {
	n := b.nodes[i.ID]
	if i.Kind == store.KindSnapshot {
		owner := b.removed(i.Image, i.ImageName, i.Depth)
		n.hang(owner)
		if owner.Removed && owner.above == nil {
			owner.hang(b.parent(i)) // a snapshot still knows where its image came from
		}
		return
	}
	n.hang(b.parent(i))
}

// parent is the node that i, or the image of i, was cloned from; nil without a link.
func (b *builder) parent(i store.Info) *Node {
	if i.Parent == "" {
		return nil
	}
	if n := b.nodes[i.ParentSnapshot]; n != nil && i.ParentSnapshot != "" {
		return n
	}
	image, _, _ := strings.Cut(i.ParentName, "@")
	return b.removed(i.Parent, image, max(0, i.Depth-1))
}

// hang puts n below above. A loop cannot come from a sound store, but what is drawn
// may be a damaged one.
func (n *Node) hang(above *Node) {
	for a := above; a != nil; a = a.above {
		if a == n {
			return
		}
	}
	n.above = above
	if above != nil {
		above.Children = append(above.Children, n)
	}
}

func (b *builder) finish() []*Node {
	var roots []*Node
	for _, n := range b.order {
		slices.SortStableFunc(n.Children, byKindAndName)
		if n.above == nil {
			roots = append(roots, n)
		}
	}
	slices.SortStableFunc(roots, byKindAndName)
	return roots
}

func byKindAndName(x, y *Node) int {
	if x.Kind != y.Kind {
		return -cmp.Compare(x.Kind, y.Kind) // snapshots before clones
	}
	return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
}

// Find returns the topmost node of the lineage that id belongs to, nil if none does.
func Find(roots []*Node, id store.ID) *Node {
	for _, r := range roots {
		if r.holds(id) {
			return r
		}
	}
	return nil
}

func (n *Node) holds(id store.ID) bool {
	return n.ID == id || slices.ContainsFunc(n.Children, func(c *Node) bool { return c.holds(id) })
}
