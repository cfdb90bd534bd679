package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// action is one structural operation of a program.
type action interface {
	label() string
	// target is the image it works on and may be written meanwhile, or nil.
	target() *thing
	// bound is the size below which the target may be written meanwhile.
	bound() int64
	// closes lists what must be neither open nor written meanwhile.
	closes() []*thing
	// run calls the store under test, in the context given.
	run(ctx context.Context, w *world) error
	// happened finds out whether an interrupted run took effect.
	happened(w *world) (bool, error)
	// view is the object that run made and that shows the target as it was, or "".
	view(w *world) (store.ID, error)
	// mirror does the same to the oracle and to what the program knows.
	mirror(w *world) error
}

// still is the part of an action that most do not need.
type still struct{}

func (still) target() *thing                { return nil }
func (still) bound() int64                  { return 1 << 62 }
func (still) closes() []*thing              { return nil }
func (still) view(*world) (store.ID, error) { return "", nil }
func (still) happened(*world) (bool, error) { return false, nil }
func exists(err error) (bool, error) {
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// planAction chooses what fits the world as it is.
func (w *world) planAction() action {
	for {
		var a interface {
			action
			plan(w *world) bool
		}
		switch n := w.rng.IntN(100); {
		case n < 5:
			a = &createAction{}
		case n < 30:
			a = &snapshotAction{}
		case n < 52:
			a = &cloneAction{}
		case n < 64:
			a = &resizeAction{}
		case n < 76:
			a = &flattenAction{}
		case n < 91:
			a = &removeAction{}
		case n < 97:
			a = &revertAction{}
		default:
			a = &refusedAction{}
		}
		if a.plan(w) {
			return a
		}
	}
}

// createAction makes an empty image.
type createAction struct {
	still
	spec store.Spec
	made store.Info
}

func (a *createAction) plan(w *world) bool {
	a.spec = store.Spec{Name: w.fresh("i"), Size: w.newSize()}
	a.spec.Policy = store.Policy{Soft: unlimited, Hard: unlimited}
	if !w.exact {
		a.spec.Policy = store.Policy{Soft: 1 + w.rng.IntN(4), Hard: 64}
	}
	return len(w.images) < mostImages
}

func (a *createAction) label() string {
	return fmt.Sprintf("create %s of %d blocks, soft %d", a.spec.Name, a.spec.Size/blk, a.spec.Policy.Soft)
}

func (a *createAction) run(ctx context.Context, w *world) (err error) {
	a.made, err = w.real.Create(ctx, a.spec)
	return err
}

func (a *createAction) happened(w *world) (bool, error) {
	var err error
	a.made, err = w.real.Lookup(w.ctx, a.spec.Name)
	return exists(err)
}

func (a *createAction) mirror(w *world) error {
	spec := a.spec
	spec.Policy = store.Policy{}
	model, err := w.oracle.Create(w.ctx, spec)
	if err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	k := &kin{name: a.spec.Name, real: a.made.ID, live: true, soft: a.spec.Policy.Soft}
	w.kins[k.real] = k
	w.add(k, a.made, model)
	return nil
}

// snapshotAction freezes an image under writes.
type snapshotAction struct {
	still
	t    *thing
	name string
	made store.Info
}

func (a *snapshotAction) plan(w *world) bool {
	a.t, a.name = w.pickImage(), w.fresh("s")
	return len(w.snaps) < mostSnapshots
}

func (a *snapshotAction) label() string  { return "snapshot " + a.t.ref() + "@" + a.name }
func (a *snapshotAction) target() *thing { return a.t }

func (a *snapshotAction) run(ctx context.Context, w *world) (err error) {
	a.made, err = w.real.Snapshot(ctx, a.t.real, a.name)
	return err
}

func (a *snapshotAction) happened(w *world) (bool, error) {
	var err error
	a.made, err = w.real.Lookup(w.ctx, a.t.ref()+"@"+a.name)
	return exists(err)
}

func (a *snapshotAction) view(*world) (store.ID, error) { return a.made.ID, nil }

func (a *snapshotAction) mirror(w *world) error {
	model, err := w.oracle.Snapshot(w.ctx, a.t.model, a.name)
	if err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	w.add(a.t.kin, a.made, model)
	w.n.snapshots.Add(1)
	return nil
}

// cloneAction clones a snapshot, or an image under writes, sometimes to a larger size.
type cloneAction struct {
	still
	from *thing
	name string
	size int64
	made store.Info
}

func (a *cloneAction) plan(w *world) bool {
	a.from, a.name = w.pickImage(), w.fresh("i")
	if len(w.snaps) > 0 && w.rng.IntN(2) == 0 {
		a.from = pick(w.rng, w.snaps)
	}
	if w.rng.IntN(2) == 0 {
		a.size = a.from.size + w.rng.Int64N(40)*blk
	}
	return len(w.images) < mostImages
}

func (a *cloneAction) label() string {
	return fmt.Sprintf("clone %s of %s, size %d blocks", a.name, a.from.ref(), a.size/blk)
}

func (a *cloneAction) target() *thing {
	if a.from.kind == store.KindImage {
		return a.from
	}
	return nil
}

func (a *cloneAction) run(ctx context.Context, w *world) (err error) {
	a.made, err = w.real.Create(ctx, store.Spec{Name: a.name, Parent: a.from.real, Size: a.size})
	return err
}

func (a *cloneAction) happened(w *world) (bool, error) {
	var err error
	a.made, err = w.real.Lookup(w.ctx, a.name)
	return exists(err)
}

func (a *cloneAction) view(*world) (store.ID, error) { return a.made.ID, nil }

func (a *cloneAction) mirror(w *world) error {
	// The oracle must not flatten by itself: the program would not know of it.
	spec := store.Spec{Name: a.name, Parent: a.from.model, Size: a.size}
	spec.Policy = store.Policy{Soft: unlimited, Hard: unlimited}
	model, err := w.oracle.Create(w.ctx, spec)
	if err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	k := &kin{name: a.name, real: a.made.ID, parent: a.from.kin, live: true, soft: a.from.kin.soft}
	if a.from.kind == store.KindSnapshot {
		k.via = a.from
	}
	w.kins[k.real] = k
	w.add(k, a.made, model)
	w.n.clones.Add(1)
	return nil
}

// resizeAction changes a size under writes to the part that stays.
type resizeAction struct {
	still
	t    *thing
	size int64
}

func (a *resizeAction) plan(w *world) bool {
	a.t = w.pickImage()
	a.size = max(16*blk, a.t.size+(w.rng.Int64N(80)-40)*blk)
	if w.rng.IntN(4) == 0 {
		a.size = w.newSize()
	}
	return true
}

func (a *resizeAction) label() string {
	return fmt.Sprintf("resize %s from %d to %d blocks", a.t.ref(), a.t.size/blk, a.size/blk)
}
func (a *resizeAction) target() *thing { return a.t }
func (a *resizeAction) bound() int64   { return a.size }

func (a *resizeAction) run(ctx context.Context, w *world) error {
	_, err := w.real.Resize(ctx, a.t.real, a.size)
	return err
}

func (a *resizeAction) happened(w *world) (bool, error) {
	info, err := w.real.Stat(w.ctx, a.t.real)
	return info.Size == a.size, err
}

func (a *resizeAction) mirror(w *world) error {
	if _, err := w.oracle.Resize(w.ctx, a.t.model, a.size); err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	a.t.size = a.size
	w.n.resizes.Add(1)
	return nil
}
