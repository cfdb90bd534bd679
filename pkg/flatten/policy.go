package flatten

import "github.com/strata-csi/strata/pkg/store"

const (
	// DefaultSoft is the soft limit where a policy says none, in clone links.
	DefaultSoft = 8
	// DefaultHard is the hard limit where a policy says none, in clone links.
	DefaultHard = 64
)

// Verdict is what to do about a new clone.
type Verdict int

const (
	// Link: make the clone.
	Link Verdict = iota
	// LinkThenFlatten: make the clone and queue a flatten in the same transaction.
	LinkThenFlatten
	// FlattenFirst: make nothing; an urgent flatten must finish before.
	FlattenFirst
)

func (v Verdict) String() string {
	switch v {
	case Link:
		return "link"
	case LinkThenFlatten:
		return "link, then flatten"
	case FlattenFirst:
		return "flatten first"
	}
	return "unknown verdict"
}

// Resolve fills in the limits that a policy leaves open. A default never
// contradicts the limit that is given: soft <= hard holds afterwards.
func Resolve(p store.Policy) store.Policy {
	if p.Soft <= 0 {
		p.Soft = DefaultSoft
		if p.Hard > 0 {
			p.Soft = min(p.Soft, p.Hard)
		}
	}
	if p.Hard <= 0 {
		p.Hard = DefaultHard
	}
	p.Hard = max(p.Hard, p.Soft)
	return p
}

// Decide says what to do about a clone that would have the given depth.
func Decide(p store.Policy, depth int) Verdict {
	p = Resolve(p)
	switch {
	case depth <= p.Soft:
		return Link
	case depth <= p.Hard:
		return LinkThenFlatten
	}
	return FlattenFirst
}

// Goal is the depth, in clone links, that a flatten should bring a new image to.
func Goal(soft int) int {
	if soft <= 0 {
		soft = DefaultSoft
	}
	return max(1, soft/2)
}
