package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// Page asks for part of a list: at most Max entries (0: all), after the one that Token
// names. A token stays good when objects come or go, since it names a place in an order
// and no object.
type Page struct {
	Max   int
	Token string
}

// List returns volumes in the order of their ids, with the nodes they are published to,
// and the token of the next page, "" at the end. Images that are still being copied are
// left out. ErrUnavailable, naming it, if a store is missing; ErrToken.
func (s *Service) List(ctx context.Context, page Page) ([]Volume, string, error) {
	after, err := page.after(volumePrefix)
	if err != nil {
		return nil, "", err
	}
	all, err := s.collect(ctx, s.pools.Names(), volumePrefix, func(ctx context.Context, v pool.View, m pool.Member, add func(found)) error {
		partial, err := unfinished(ctx, m)
		if err != nil {
			return err
		}
		return m.Remote.Walk(ctx, func(info store.Info) error {
			if info.Kind == store.KindImage && !partial[info.Name] {
				add(found{v.Pool, m, info})
			}
			return nil
		})
	})
	if err != nil {
		return nil, "", fmt.Errorf("list volumes: %w", err)
	}
	all, next := page.cut(all, volumePrefix, after)
	nodes, err := s.published(ctx, all)
	if err != nil {
		return nil, "", fmt.Errorf("list volumes: %w", err)
	}
	var volumes []Volume
	for _, f := range all {
		volumes = append(volumes, f.volume(nodes[f.info.ID]))
	}
	return volumes, next, nil
}

// unfinished names the images of a store that are being copied to it.
func unfinished(ctx context.Context, m pool.Member) (map[string]bool, error) {
	names := make(map[string]bool)
	err := m.Remote.Notes(ctx, copyPrefix, func(key, _ string) error {
		names[key[len(copyPrefix):]] = true
		return nil
	})
	return names, err
}

// published tells for images on which nodes they are.
func (s *Service) published(ctx context.Context, all []found) (map[store.ID][]string, error) {
	nodes := make(map[store.ID][]string)
	asked := make(map[string]bool)
	for _, f := range all {
		if asked[f.m.UUID] {
			continue
		}
		asked[f.m.UUID] = true
		pubs, err := f.m.Remote.Publications(ctx, "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.m, err)
		}
		for _, p := range pubs {
			nodes[p.ID] = append(nodes[p.ID], p.Node)
		}
	}
	return nodes, nil
}

// ListSnapshots is List for snapshots; with volume set only for those of that volume. A
// volume id that was not made here has none.
func (s *Service) ListSnapshots(ctx context.Context, volume string, page Page) ([]Snapshot, string, error) {
	after, err := page.after(snapshotPrefix)
	if err != nil {
		return nil, "", err
	}
	pools := s.pools.Names()
	var of store.ID
	if volume != "" {
		want, err := parseID(volumePrefix, volume)
		if err != nil {
			return nil, "", nil
		}
		pools, of = []string{want.pool}, want.object
	}
	all, err := s.collect(ctx, pools, snapshotPrefix, func(ctx context.Context, v pool.View, m pool.Member, add func(found)) error {
		return m.Remote.Walk(ctx, func(info store.Info) error {
			if info.Kind == store.KindSnapshot && (of == "" || info.Image == of) && !strings.HasPrefix(info.Name, internalPrefix) {
				add(found{v.Pool, m, info})
			}
			return nil
		})
	})
	if err != nil {
		return nil, "", fmt.Errorf("list snapshots: %w", err)
	}
	all, next := page.cut(all, snapshotPrefix, after)
	var snapshots []Snapshot
	for _, f := range all {
		snapshots = append(snapshots, f.snapshot())
	}
	return snapshots, next, nil
}

// collect asks every store of the pools, all at once, and sorts what they have.
func (s *Service) collect(ctx context.Context, pools []string, prefix string, ask func(context.Context, pool.View, pool.Member, func(found)) error) ([]found, error) {
	var mu sync.Mutex
	var all []found
	var failed []error
	for _, name := range pools {
		v, err := s.view(ctx, name, s.pools.View)
		if err == nil {
			err = v.Err()
		}
		if err != nil {
			return nil, err
		}
		each(v.Members, func(_ int, m pool.Member) {
			var own []found
			err := ask(ctx, v, m, func(f found) { own = append(own, f) })
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			if err != nil {
				failed = append(failed, fmt.Errorf("pool %s: %s: %w", name, m, err))
			}
		})
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.key(prefix), b.key(prefix)) })
	return slices.CompactFunc(all, func(a, b found) bool { return a.key(prefix) == b.key(prefix) }), nil
}

func (f found) key(prefix string) string {
	return id{prefix: prefix, pool: f.pool, object: f.info.ID}.key()
}

// after reads the token: the key of the last entry of the page before.
func (p Page) after(prefix string) (string, error) {
	if p.Max < 0 {
		return "", fmt.Errorf("page of %d entries: %w", p.Max, store.ErrInvalid)
	}
	if p.Token == "" {
		return "", nil
	}
	kind, key, _ := strings.Cut(p.Token, ":")
	name, object, cut := strings.Cut(key, ":")
	if !cut || kind != prefix || pool.ValidateName(name) != nil || !store.IsID(object) {
		return "", fmt.Errorf("token %q was not handed out by this list: %w", clip(p.Token), ErrToken)
	}
	return key, nil
}

// cut takes the page out of a sorted list.
func (p Page) cut(all []found, prefix, after string) (page []found, next string) {
	start := 0
	if after != "" {
		start, _ = slices.BinarySearchFunc(all, after, func(f found, key string) int { return cmp.Compare(f.key(prefix), key) })
		if start < len(all) && all[start].key(prefix) == after {
			start++
		}
	}
	all = all[start:]
	if p.Max > 0 && len(all) > p.Max {
		all = all[:p.Max]
		next = prefix + ":" + all[len(all)-1].key(prefix)
	}
	return all, next
}

// Capacity is how much room a pool has, in bytes.
type Capacity struct {
	// Free is the sum over the stores that answer.
	Free int64
	// Largest is the room on the emptiest one: a volume lives on one store. Volumes are
	// thin and may be made larger; this is what can be filled.
	Largest int64
}

// Capacity tells the room of the named pool, or of all pools if name is "".
// ErrInvalid if there is no such pool.
func (s *Service) Capacity(ctx context.Context, name string) (Capacity, error) {
	names := []string{name}
	if name == "" {
		names = s.pools.Names()
	}
	var c Capacity
	for _, n := range names {
		v, err := s.pools.View(ctx, n)
		if errors.Is(err, store.ErrNotFound) {
			return Capacity{}, fmt.Errorf("%v: %w", err, store.ErrInvalid)
		} else if err != nil {
			return Capacity{}, err
		}
		if len(v.Members) == 0 {
			return Capacity{}, v.Err()
		}
		for _, m := range v.Members {
			c.Free += m.Status.Free
			c.Largest = max(c.Largest, m.Status.Free-m.Status.Free%store.Block)
		}
	}
	return c, nil
}
