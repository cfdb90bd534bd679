package flatten

import (
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// Step is one image on the way from a new clone up to the root.
type Step struct {
	Image store.ID
	// Depth is the number of clone links from this image up to the root, as it is
	// now; 0 for the root, which cannot be flattened.
	Depth int
	// Bytes is what a flatten of it would copy.
	Bytes int64
	// Queued: a flatten of it is queued or running and will end.
	Queued bool
	// Blocked: it cannot be flattened now (damaged, no space for it, not yet made).
	Blocked bool
}

// Choice is the image to flatten.
type Choice struct {
	// Image is "" if nothing needs to be flattened, or nothing can be.
	Image store.ID
	// Bytes is what its flatten copies.
	Bytes int64
	// Depth is the new image's depth afterwards, in clone links; without an Image
	// its depth as it is.
	Depth int
	// Already: the flatten is queued, nothing is to be added.
	Already bool
	// Enough: the new image ends within the soft limit. Otherwise this is the best
	// first step, and the next clone or check of the chain finds the next.
	Enough bool
}

// Choose picks what to flatten so that path[0] ends at Goal(soft) or less for the
// fewest bytes. path[0] is the new image (Blocked if it is not made before the
// flatten is done), then come its ancestors up to the root, removed ones included.
// Each step counts one link: path[i].Depth is path[0].Depth - i.
//
// If no image within the goal can be flattened, the cheapest within the soft limit
// is taken; if there is none either, the one that lowers the depth most.
func Choose(path []Step, soft int) Choice {
	if len(path) == 0 {
		return Choice{Enough: true}
	}
	if soft <= 0 {
		soft = DefaultSoft
	}
	goal, depth := Goal(soft), path[0].Depth
	if depth <= goal {
		return Choice{Depth: depth, Enough: true}
	}
	queued := func(s Step) bool { return s.Queued }
	anyStep := func(Step) bool { return true }
	for _, within := range []int{goal, soft} {
		if c, ok := cheapest(path, within, queued); ok {
			c.Already, c.Enough = true, true
			return c
		}
	}
	for _, within := range []int{goal, soft} {
		if c, ok := cheapest(path, within, anyStep); ok {
			c.Enough = true
			return c
		}
	}
	for _, s := range path {
		if s.helps(path[0]) {
			return s.choice(path[0], s.Queued)
		}
	}
	return Choice{Depth: depth, Enough: depth <= soft}
}

// cheapest finds the step that costs least among those whose flatten leaves the new
// image at most within deep; the last of equals, which is nearest the root.
func cheapest(path []Step, within int, ok func(Step) bool) (best Choice, found bool) {
	for _, s := range path {
		if !s.helps(path[0]) || !ok(s) || path[0].Depth-s.Depth > within {
			continue
		}
		if !found || s.Bytes <= best.Bytes {
			best, found = s.choice(path[0], false), true
		}
	}
	return best, found
}

func (s Step) helps(top Step) bool {
	return !s.Blocked && s.Depth > 0 && s.Depth <= top.Depth
}

func (s Step) choice(top Step, already bool) Choice {
	return Choice{Image: s.Image, Bytes: s.Bytes, Depth: top.Depth - s.Depth, Already: already}
}

// Explain says in one sentence how deep path[0] is, what is done about it and why.
// label names an image for the reader; nil shows its id.
func Explain(p store.Policy, path []Step, label func(store.ID) string) string {
	if len(path) == 0 {
		return "no image"
	}
	if label == nil {
		label = func(id store.ID) string { return string(id) }
	}
	p = Resolve(p)
	depth := path[0].Depth
	verdict := Decide(p, depth)
	if verdict == Link {
		return fmt.Sprintf("depth %d is within the soft limit of %d", depth, p.Soft)
	}
	over := fmt.Sprintf("depth %d exceeds the soft limit of %d", depth, p.Soft)
	if verdict == FlattenFirst {
		over = fmt.Sprintf("depth %d exceeds the hard limit of %d", depth, p.Hard)
	}
	c := Choose(path, p.Soft)
	if c.Image == "" {
		return over + " and no image on the way to the root can be flattened now"
	}
	what := "flattening"
	if c.Already {
		what = "the queued flatten of"
	}
	out := fmt.Sprintf("%s; %s %s (%s) lowers it to %d", over, what, label(c.Image), size(c.Bytes), c.Depth)
	if !c.Enough {
		out += ", more flattens must follow"
	}
	return out
}

// size writes bytes for people, with at most one decimal.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	f, u := float64(n)/1024, 0
	for f >= 1023.95 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[u])
}
