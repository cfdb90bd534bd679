package stage

import (
	"context"
	"errors"
	"fmt"
)

// undo is a stack of what has to be taken back when a call fails.
type undo struct{ steps []undoStep }

type undoStep struct {
	what string
	do   func(ctx context.Context) error
}

func (u *undo) add(what string, do func(ctx context.Context) error) {
	u.steps = append(u.steps, undoStep{what, do})
}

// fail takes the steps back, the last first, and returns cause. It stops at the first
// step that fails: those below it rest on what is still there. The caller's context is
// not asked, for it may have ended the call.
func (u *undo) fail(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx)
	for i := len(u.steps) - 1; i >= 0; i-- {
		if err := u.steps[i].do(ctx); err != nil {
			return errors.Join(cause, fmt.Errorf("undo: %s: %w", u.steps[i].what, err))
		}
	}
	return cause
}
