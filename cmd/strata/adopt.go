package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// first is the first argument, "" without any.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// adopt has the store take over an image of others.
func (c *cli) adopt(ctx context.Context, a store.Adoption) error {
	s, err := c.dial()
	if err != nil {
		return err
	}
	info, err := s.Adopt(ctx, a)
	if err != nil {
		return adviseAdopt(a, fmt.Errorf("import --adopt %s: %w", a.Source, err))
	}
	if info.Parent != "" {
		c.note("%s reads what it was cloned from, %s; whoever has that must keep it until: strata flatten %s", info.Name, info.ParentName, info.Name)
	}
	return c.quiet(info)
}

// adviseAdopt says what to do about an image that is not adopted. Most refusals say it
// themselves.
func adviseAdopt(a store.Adoption, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return advise(err, "see what is there with: rbd ls POOL")
	case errors.Is(err, store.ErrInUse):
		return advise(err, "unmount it everywhere, and make sure that nothing mounts it again: rbd status %s", a.Source)
	case errors.Is(err, store.ErrConflict):
		return advise(err, "see what this store has with: strata ls; give it another name with: strata import --adopt %s NAME", a.Source)
	case errors.Is(err, store.ErrBusy):
		return advise(err, "repeat the command in a minute")
	case errors.Is(err, store.ErrUnsupported), errors.Is(err, store.ErrRange), errors.Is(err, store.ErrInvalid):
		return advise(err, "an image that cannot be adopted can be copied: rbd export %s - | strata import - NAME", a.Source)
	}
	return err
}
