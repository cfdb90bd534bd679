package volume

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// score orders stores for a name: each name has an order of its own, and a store that
// comes or goes does not change the order of the others (rendezvous hashing).
func score(uuid, name string) uint64 {
	sum := sha256.Sum256([]byte(uuid + "\x00" + name))
	return binary.BigEndian.Uint64(sum[:])
}

// anchorOf is the UUID of the store that decides about an empty volume of that name,
// whether it answers or not; "" if no store has joined.
func anchorOf(v pool.View, name string) string {
	best := ""
	for _, uuid := range v.Known() {
		if m, ok := v.Member(uuid); ok && !m.Joined {
			continue
		}
		if best == "" || score(uuid, name) > score(best, name) {
			best = uuid
		}
	}
	return best
}

// choose picks the store for an image that needs so many bytes: of the nearest ones that
// with most free space, where less than an eighth makes no difference and the order of the
// name decides. Stores in not are left out. "" if none is left.
func (p *plan) choose(v pool.View, need int64, not map[string]bool) string {
	var able []pool.Member
	for _, m := range v.Members {
		if m.Joined && !not[m.UUID] && m.Status.Free > need {
			able = append(able, m)
		}
	}
	able = nearest(able, p.Distance)
	if len(able) == 0 {
		return ""
	}
	most := slices.MaxFunc(able, func(a, b pool.Member) int { return cmp.Compare(a.Status.Free, b.Status.Free) }).Status.Free
	able = slices.DeleteFunc(able, func(m pool.Member) bool { return m.Status.Free < most-most/8 })
	return slices.MaxFunc(able, func(a, b pool.Member) int {
		return cmp.Compare(score(a.UUID, p.image), score(b.UUID, p.image))
	}).UUID
}

// nearest leaves those out that are farther away than others.
func nearest(stores []pool.Member, distance func(node string) int) []pool.Member {
	if distance == nil || len(stores) == 0 {
		return stores
	}
	far := func(m pool.Member) int { return distance(m.Status.Node) }
	least := far(slices.MinFunc(stores, func(a, b pool.Member) int { return cmp.Compare(far(a), far(b)) }))
	return slices.DeleteFunc(stores, func(m pool.Member) bool { return far(m) > least })
}

func forwardNote(image string) string { return "fwd/" + image }

// forward makes the anchor say at which store the image is made. From when it returns,
// nobody makes it anywhere else.
func (s *Service) forward(ctx context.Context, p *plan, at *site, target string) error {
	next := target
	if target == at.anchor.UUID {
		next = ""
	}
	if next == at.note {
		return nil
	}
	if err := swap(ctx, at.anchor, forwardNote(p.image), at.note, next); err != nil {
		return fmt.Errorf("volume %s: forward it: %w", p.Name, err)
	}
	at.note = next
	failpoint.Hit("volume.create.forwarded")
	return nil
}

// room is how many bytes a store must have free to take a copy of the source.
func room(ctx context.Context, src *found) (int64, error) {
	u, err := src.m.Remote.Usage(ctx, src.info.ID)
	if err != nil {
		return 0, fmt.Errorf("usage of %s: %s: %w", src.info.Ref(), src.m, err)
	}
	return u.Own + u.Shared, nil
}

// full is the error when no store is left to ask.
func full(p *plan, v pool.View, cause error) error {
	return fmt.Errorf("volume %s: no store of pool %s that answers (%d of %d) has room: %w (%v)",
		p.Name, v.Pool, len(v.Members), len(v.Known()), store.ErrNoSpace, cause.Error())
}
