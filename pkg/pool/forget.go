package pool

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-csi/strata/pkg/store"
)

// Forget gives up a member that is gone for good: the pool counts as complete without
// it, and volumes that were made on it count as deleted. It need not be known: the
// members that knew it may be gone as well. ErrInUse if it answers, ErrUnavailable if
// no member is left that could write it down. Durable when it returns nil; should it
// fail halfway, a repetition completes it.
func (s *Set) Forget(ctx context.Context, pool, uuid string) error {
	if !store.IsID(uuid) {
		return fmt.Errorf("forget store %q: that is no UUID: %w", uuid, store.ErrInvalid)
	}
	v, err := s.Fresh(ctx, pool)
	if err != nil {
		return err
	}
	if m, ok := v.Member(uuid); ok {
		return fmt.Errorf("forget %s: it answers; stop it first: %w", m, store.ErrInUse)
	}
	if len(v.Members) == 0 {
		return fmt.Errorf("forget store %s: %w", uuid, v.Err())
	}
	tomb := forgotten
	for _, m := range v.Missing {
		if m.UUID == uuid {
			tomb += m.Addr
		}
	}
	if slices.Contains(v.Forgotten, uuid) {
		return nil // the discovery has told everybody
	}
	for _, m := range v.Members {
		if err := swap(ctx, m, memberPrefix+uuid, tomb); err != nil {
			return fmt.Errorf("forget store %s: %s: %w", uuid, m, err)
		}
	}
	_, err = s.Fresh(ctx, pool)
	return err
}

// Admit takes a forgotten store back that answers again. ErrNotFound if none of that
// UUID was refused for having been forgotten, ErrUnavailable if a member is missing: it
// would still say that the store was forgotten.
func (s *Set) Admit(ctx context.Context, pool, uuid string) error {
	v, err := s.Fresh(ctx, pool)
	if err != nil {
		return err
	}
	if len(v.Missing) > 0 {
		return fmt.Errorf("admit store %s: %w", uuid, v.Err())
	}
	for _, r := range v.Refused {
		if r.UUID != uuid {
			continue
		}
		remote, err := s.conns.get(r.Addr)
		if err != nil {
			return fmt.Errorf("admit store %s: %w", uuid, err)
		}
		all := append(v.Members, Member{UUID: uuid, Addr: r.Addr, Remote: remote})
		for _, m := range all {
			if err := swap(ctx, m, memberPrefix+uuid, r.Addr); err != nil {
				return fmt.Errorf("admit store %s: %s: %w", uuid, m, err)
			}
		}
		_, err = s.Fresh(ctx, pool)
		return err
	}
	return fmt.Errorf("admit: pool %s refuses no store %s: %w", v.Pool, uuid, store.ErrNotFound)
}

// swap makes the note under key say value, whatever it says now.
func swap(ctx context.Context, m Member, key, value string) error {
	old, err := note(ctx, m, key)
	if err != nil || old == value {
		return err
	}
	return m.Remote.SwapNote(ctx, key, old, value)
}
