package storetest

import (
	"context"

	"github.com/strata-csi/strata/pkg/store"
)

func accessMutants() []mutant {
	return []mutant{
		{name: "a private head is what was published", bend: bending(func(b bent) common { return common{b} }),
			cases: []string{"TestScratch", "TestScratchHidden", "TestScratchFenced"}},
		{name: "private heads are shown", bend: bending(func(b bent) showing { return showing{b} }),
			cases: []string{"TestScratchHidden"}},
		{name: "the format can move backwards", bend: bending(func(b bent) lax { return lax{b} }),
			cases: []string{"TestFormatForward"}},
		{name: "notes are swapped blindly", bend: bending(func(b bent) blindSwap { return blindSwap{b} }),
			cases: []string{"TestNotes", "TestNotesConcurrent"}},
		{name: "a clone is never flat at once", bend: bending(func(b bent) linking { return linking{b} }),
			cases: []string{"TestCreateFlatten"}},
		{name: "limits are inherited", bend: bending(func(b bent) limiting { return limiting{b} }),
			cases: []string{"TestLimits"}},
	}
}

// common gives every node the same thing.
type common struct{ bent }

func (c common) Publish(ctx context.Context, id store.ID, node string, access store.Access) (store.Publication, error) {
	if access != store.AccessScratch {
		return c.bent.Publish(ctx, id, node, access)
	}
	p, err := c.bent.Publish(ctx, id, node, store.AccessRead)
	p.Access = access
	return p, err
}

// showing walks over private heads too.
type showing struct{ bent }

func (s showing) Walk(ctx context.Context, fn func(store.Info) error) error {
	pubs, err := s.Publications(ctx, "")
	for _, p := range pubs {
		if i, serr := s.Stat(ctx, p.Target); p.Target != p.ID && serr == nil && err == nil {
			err = fn(i)
		}
	}
	if err != nil {
		return err
	}
	return s.bent.Walk(ctx, fn)
}

// lax says that a step backwards was done.
type lax struct{ bent }

func (l lax) Modify(ctx context.Context, id store.ID, c store.Change) (store.Info, error) {
	info, err := l.bent.Modify(ctx, id, c)
	if err != nil && c.Format != nil {
		return l.Stat(ctx, id)
	}
	return info, err
}

// blindSwap does not look at what a note was.
type blindSwap struct{ bent }

func (b blindSwap) SwapNote(ctx context.Context, key, old, value string) error {
	if now, err := b.Note(ctx, key); err == nil {
		old = now
	} else if len(key) > 0 && len(key) <= store.MaxName {
		old = ""
	}
	return b.bent.SwapNote(ctx, key, old, value)
}

// linking forgets what was asked of a clone.
type linking struct{ bent }

func (l linking) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	spec.Flatten = false
	return l.bent.Create(ctx, spec)
}

// limiting gives a clone the limits of its parent.
type limiting struct{ bent }

func (l limiting) Create(ctx context.Context, spec store.Spec) (store.Info, error) {
	if p, err := l.Stat(ctx, spec.Parent); err == nil && spec.Parent != "" {
		if p.Kind == store.KindSnapshot {
			p, _ = l.Stat(ctx, p.Image)
		}
		spec.Limits = p.Limits
	}
	return l.bent.Create(ctx, spec)
}
