package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-csi/strata/pkg/store"
)

// flattenAction cuts a clone link under writes, or begins to.
type flattenAction struct {
	still
	t     *thing
	begin bool // only begin, and perhaps pause, resume or cancel
	steer int
}

func (a *flattenAction) plan(w *world) bool {
	a.t, a.begin, a.steer = w.pickImage(), w.rng.IntN(3) == 0, w.rng.IntN(4)
	return a.t.kin.parent != nil || w.rng.IntN(8) == 0
}

func (a *flattenAction) label() string {
	if a.begin {
		return "begin to flatten " + a.t.ref() + []string{"", ", pause and resume", ", cancel", ""}[a.steer]
	}
	return "flatten " + a.t.ref()
}
func (a *flattenAction) target() *thing { return a.t }

func (a *flattenAction) run(ctx context.Context, w *world) error {
	if !a.begin {
		return w.real.Flatten(ctx, a.t.real)
	}
	job, err := w.real.StartFlatten(ctx, a.t.real)
	if err != nil || job.State == store.JobDone {
		return err
	}
	switch a.steer {
	case 1:
		if err = w.real.PauseJob(ctx, job.ID); err == nil {
			err = w.real.ResumeJob(ctx, job.ID)
		}
	case 2:
		err = w.real.CancelJob(ctx, job.ID)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil // done meanwhile
	}
	return err
}

// happened gives an interrupted flatten up as unknown: no view depends on it. What was
// paused must not wait for ever.
func (a *flattenAction) happened(w *world) (bool, error) {
	a.t.kin.flat = true
	jobs, err := w.real.Jobs(w.ctx)
	if err != nil {
		return false, err
	}
	for _, j := range jobs {
		if j.State == store.JobPaused {
			if err := w.real.ResumeJob(w.ctx, j.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
				return false, err
			}
		}
	}
	return false, nil
}

func (a *flattenAction) mirror(w *world) error {
	w.n.flattens.Add(1)
	if a.begin {
		a.t.kin.flat = true
		return nil
	}
	a.t.kin.parent, a.t.kin.flat = nil, false
	if err := w.oracle.Flatten(w.ctx, a.t.model); err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	return nil
}

// removeAction removes an image or a snapshot, whatever depends on it.
type removeAction struct {
	still
	t *thing
}

func (a *removeAction) plan(w *world) bool {
	if len(w.snaps) > 0 && w.rng.IntN(2) == 0 {
		a.t = pick(w.rng, w.snaps)
		return true
	}
	a.t = w.pickImage()
	return len(w.images) > leastImages
}

func (a *removeAction) label() string    { return "remove " + a.t.ref() }
func (a *removeAction) closes() []*thing { return []*thing{a.t} }

func (a *removeAction) run(ctx context.Context, w *world) error { return w.real.Remove(ctx, a.t.real) }

func (a *removeAction) happened(w *world) (bool, error) {
	_, err := w.real.Stat(w.ctx, a.t.real)
	there, err := exists(err)
	return !there, err
}

func (a *removeAction) mirror(w *world) error {
	if err := w.oracle.Remove(w.ctx, a.t.model); err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	w.drop(a.t)
	w.n.removes.Add(1)
	return nil
}

// revertAction rolls an image back to one of its snapshots.
type revertAction struct {
	still
	t, to *thing
}

func (a *revertAction) plan(w *world) bool {
	a.t = w.pickImage()
	snaps := w.snapsOf(a.t.kin)
	if len(snaps) == 0 {
		return false
	}
	a.to = pick(w.rng, snaps)
	return true
}

func (a *revertAction) label() string    { return "revert " + a.t.ref() + " to " + a.to.ref() }
func (a *revertAction) closes() []*thing { return []*thing{a.t} }

func (a *revertAction) run(ctx context.Context, w *world) error {
	return w.real.Revert(ctx, a.t.real, a.to.real)
}

// happened tells by the image's size and bytes; if it shows neither the old state nor
// the snapshot, the next comparison finds it.
func (a *revertAction) happened(w *world) (bool, error) {
	info, err := w.real.Stat(w.ctx, a.t.real)
	if err != nil || info.Size != a.to.size {
		return false, err
	}
	got, err := readRange(w.ctx, w.real, a.t.real, 0, a.to.size)
	if err != nil {
		return false, err
	}
	want, err := readRange(w.ctx, w.oracle, a.to.model, 0, a.to.size)
	return err == nil && difference(got, want) == "", err
}

func (a *revertAction) mirror(w *world) error {
	if err := w.oracle.Revert(w.ctx, a.t.model, a.to.model); err != nil {
		return fmt.Errorf("the oracle refuses: %w", err)
	}
	a.t.size = a.to.size
	w.n.reverts.Add(1)
	return nil
}

// refusedAction asks for what must be refused, and leaves everything as it was.
type refusedAction struct {
	still
	t    *thing
	kind int
}

func (a *refusedAction) plan(w *world) bool {
	a.t, a.kind = w.pickImage(), w.rng.IntN(4)
	return a.kind != 0 || a.t.dev != nil
}

func (a *refusedAction) label() string {
	return "ask for the impossible: " + []string{
		"remove of open", "create of existing", "clone smaller than", "resize to nothing of",
	}[a.kind] + " " + a.t.ref()
}

func (a *refusedAction) run(ctx context.Context, w *world) error {
	var err, want error
	switch a.kind {
	case 0:
		err, want = w.real.Remove(ctx, a.t.real), store.ErrInUse
	case 1:
		_, err = w.real.Create(ctx, store.Spec{Name: a.t.name, Size: blk})
		want = store.ErrConflict
	case 2:
		_, err = w.real.Create(ctx, store.Spec{Name: "small", Parent: a.t.real, Size: a.t.size - blk})
		want = store.ErrRange
	default:
		_, err = w.real.Resize(ctx, a.t.real, 0)
		want = store.ErrRange
	}
	if err == nil {
		return fmt.Errorf("%w: it was granted", errWrong)
	}
	if errors.Is(err, want) {
		return nil
	}
	return err
}

func (a *refusedAction) mirror(*world) error { return nil }
