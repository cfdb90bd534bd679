package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// found is an object and the member of a pool that has it.
type found struct {
	pool string
	m    pool.Member
	info store.Info
}

func (f found) volume(nodes []string) Volume {
	return Volume{
		ID:   id{volumePrefix, f.pool, f.info.ID, f.m.UUID}.String(),
		Pool: f.pool, Store: f.m.UUID, Info: f.info, Nodes: nodes,
	}
}

func (f found) snapshot() Snapshot {
	return Snapshot{
		ID:     id{snapshotPrefix, f.pool, f.info.ID, f.m.UUID}.String(),
		Volume: id{volumePrefix, f.pool, f.info.Image, f.m.UUID}.String(),
		Info:   f.info,
	}
}

// find finds what an id stands for: at the store that the id hints at, else at every
// member of the pool, those included that live and are slow. ErrNotFound only if all of
// them are there and none has it.
func (s *Service) find(ctx context.Context, want id) (found, error) {
	v, err := s.view(ctx, want.pool, s.pools.View)
	if err != nil {
		return found{}, err
	}
	kind := store.KindImage
	if want.prefix == snapshotPrefix {
		kind = store.KindSnapshot
	}
	if m, ok := v.Member(want.store); ok {
		info, err := m.Remote.Stat(ctx, want.object)
		switch {
		case err == nil && info.Kind == kind:
			return found{want.pool, m, info}, nil
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return found{}, fmt.Errorf("%s %s: %s: %w", kind, want.object, m, err)
		}
	}
	if v, err = s.view(ctx, want.pool, s.pools.Fresh); err != nil {
		return found{}, err
	}
	ask := func(ctx context.Context, m pool.Member) (store.Info, error) {
		info, err := m.Remote.Stat(ctx, want.object)
		if err == nil && info.Kind != kind {
			return info, fmt.Errorf("%s is a %s: %w", want.object, info.Kind, store.ErrNotFound)
		}
		return info, err
	}
	f, err := everywhere(ctx, v, func(m pool.Member) (store.Info, error) { return ask(ctx, m) })
	if errors.Is(err, store.ErrUnavailable) && len(v.Missing) > 0 {
		f, err = s.patiently(ctx, v, ask)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return f, err
	}
	if !slices.Contains(v.Known(), want.store) && !slices.Contains(v.Forgotten, want.store) {
		return found{}, fmt.Errorf("%s %s was made on store %s, which pool %s does not know; bring it back or forget it: %w",
			kind, want.object, want.store, want.pool, store.ErrUnavailable)
	}
	return found{}, fmt.Errorf("%s %s: %w", kind, want.object, err)
}

// view is a view of a pool that an id names. A pool that is not configured is not in
// reach, so nothing is known of what is in it.
func (s *Service) view(ctx context.Context, name string, view func(context.Context, string) (pool.View, error)) (pool.View, error) {
	v, err := view(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return pool.View{}, fmt.Errorf("%v: %w", err, store.ErrUnavailable)
	}
	return v, err
}

// everywhere asks all members at once. The answer is the first (by UUID) that has it;
// ErrNotFound if every member of a complete view said so and is still the store that it
// was; ErrUnavailable if one could not be asked.
func everywhere(ctx context.Context, v pool.View, ask func(pool.Member) (store.Info, error)) (found, error) {
	infos := make([]store.Info, len(v.Members))
	errs := make([]error, len(v.Members))
	each(v.Members, func(i int, m pool.Member) {
		infos[i], errs[i] = ask(m)
		if errors.Is(errs[i], store.ErrNotFound) {
			if err := m.Confirm(ctx); err != nil {
				errs[i] = err
			}
		}
	})
	var failed []error
	for i, err := range errs {
		switch {
		case err == nil:
			return found{v.Pool, v.Members[i], infos[i]}, nil
		case !errors.Is(err, store.ErrNotFound):
			failed = append(failed, fmt.Errorf("%s: %w", v.Members[i], err))
		}
	}
	if len(failed) > 0 {
		return found{}, fmt.Errorf("pool %s: %w", v.Pool, errors.Join(failed...))
	}
	if err := v.Err(); err != nil {
		return found{}, err
	}
	return found{}, fmt.Errorf("no store of pool %s has it: %w", v.Pool, store.ErrNotFound)
}

// member returns a member that is needed, whether it answered in time or not.
func (s *Service) member(ctx context.Context, v pool.View, uuid string) (pool.Member, error) {
	if m, ok := v.Member(uuid); ok {
		return m, nil
	}
	return s.pools.Find(ctx, v.Pool, uuid)
}

// patiently is everywhere with those members that did not answer in time, and are given as
// long as ctx lasts. As soon as one of them has it, nobody waits for the others.
func (s *Service) patiently(ctx context.Context, v pool.View, ask func(context.Context, pool.Member) (store.Info, error)) (found, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	hits := make([]*found, len(v.Missing))
	var wg sync.WaitGroup
	for i, x := range v.Missing {
		wg.Go(func() {
			m, err := s.pools.Reach(waiting, v, x)
			if err != nil {
				return
			}
			if info, err := ask(waiting, m); err == nil {
				hits[i] = &found{v.Pool, m, info}
				cancel()
			}
		})
	}
	wg.Wait()
	for _, hit := range hits {
		if hit != nil {
			return *hit, nil
		}
	}
	return everywhere(ctx, s.complete(ctx, v), func(m pool.Member) (store.Info, error) { return ask(ctx, m) })
}

// complete is v with those that did not answer in time and do now; the others stay missing.
func (s *Service) complete(ctx context.Context, v pool.View) pool.View {
	late := make([]*pool.Member, len(v.Missing))
	var wg sync.WaitGroup
	for i, x := range v.Missing {
		wg.Go(func() {
			if m, err := s.pools.Reach(ctx, v, x); err == nil {
				late[i] = &m
			}
		})
	}
	wg.Wait()
	all := v
	all.Members, all.Missing = slices.Clone(v.Members), nil
	for i, x := range v.Missing {
		if late[i] != nil {
			all.Members = append(all.Members, *late[i])
		} else {
			all.Missing = append(all.Missing, x)
		}
	}
	return all
}

// beside is the members of v, with one that may have answered too late to be in it.
func beside(v pool.View, m pool.Member) []pool.Member {
	if _, ok := v.Member(m.UUID); ok {
		return v.Members
	}
	return append(slices.Clone(v.Members), m)
}

// each calls fn for all members at once and waits.
func each(members []pool.Member, fn func(int, pool.Member)) {
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { fn(i, m) })
	}
	wg.Wait()
}
