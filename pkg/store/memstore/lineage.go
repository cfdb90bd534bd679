package memstore

import "github.com/strata-csi/strata/pkg/store"

// family is the lineage of one image. It outlives the image as long as a part of it
// is in somebody's history.
type family struct {
	id    store.ID
	name  string
	image *object // nil once removed
	root  *part   // the oldest part; its below is the clone link
	snaps map[string]*object
	via   *object // the named snapshot cloned from, nil for an internal one
}

// part is where cells were stored: one stretch of an image's history.
type part struct {
	owner *family
	below *part
	used  bool // something was stored or cut off while it was the newest
}

// depth counts the clone links from p to the root.
func (p *part) depth() int {
	links := 0
	for ; p.below != nil; p = p.below {
		if p.owner != p.below.owner {
			links++
		}
	}
	return links
}

// depths numbers the parts from p down, beginning with 1.
func (p *part) depths() map[*part]int {
	d := make(map[*part]int)
	for ; p != nil; p = p.below {
		d[p] = len(d) + 1
	}
	return d
}

// has tells whether q is p or below it.
func (p *part) has(q *part) bool {
	for ; p != nil; p = p.below {
		if p == q {
			return true
		}
	}
	return false
}

// path lists the families from p to the root.
func (p *part) path() []*family {
	var path []*family
	for ; p != nil; p = p.below {
		if len(path) == 0 || path[len(path)-1] != p.owner {
			path = append(path, p.owner)
		}
	}
	return path
}

// parent is the family cloned from, nil without a clone link.
func (f *family) parent() *family {
	if f.root.below == nil {
		return nil
	}
	return f.root.below.owner
}

// object is one live image or snapshot.
type object struct {
	view
	fam     *family
	info    store.Info // what never changes: names, kind, block size, policy, digest
	removed bool
	opened  int
	epoch   uint64
	pubs    map[string]store.Publication // by node
	source  *object                      // what this is a private head of, or nil
}

// describe completes the object's description.
func (o *object) describe() store.Info {
	i := o.info
	i.Image, i.ImageName, i.ImageRemoved = o.fam.id, o.fam.name, o.fam.image == nil
	i.Size, i.Overlap, i.Depth = o.size, o.overlap, o.part.depth()
	i.State = store.StateReady
	if parent := o.fam.parent(); parent != nil {
		i.Parent, i.ParentName = parent.id, parent.name
		if via := o.fam.via; via != nil {
			i.ParentName += "@" + via.info.Name
			if !via.removed {
				i.ParentSnapshot = via.info.ID
			}
		}
	}
	if o.info.Kind == store.KindImage {
		i.Snapshots = len(o.fam.snaps)
	}
	for node := range o.pubs {
		if i.Node == "" || node < i.Node {
			i.Node = node
		}
	}
	return i
}

// flatten cuts the family's clone link. Every view that reads through it gets the
// inherited cells as the family's own; the bytes made own are returned.
func (d *disk) flatten(f *family) int64 {
	if f.root.below == nil {
		return 0
	}
	inherited := f.root.below.depths()
	own := make(map[*cell]*cell)
	var copied int64
	for o := range d.views() {
		if !o.part.has(f.root) {
			continue
		}
		for block, c := range o.cells {
			if inherited[c.part] == 0 {
				continue
			}
			if own[c] == nil {
				own[c] = &cell{data: c.data, reserved: c.reserved, part: f.root}
				copied += int64(len(c.data))
			}
			o.cells[block] = own[c]
		}
		if o.fam == f {
			o.overlap = 0
		}
	}
	f.root.below, f.via = nil, nil
	f.root.used = true
	return copied
}
