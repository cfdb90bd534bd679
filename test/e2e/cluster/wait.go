package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// period between two looks at a condition.
const period = 250 * time.Millisecond

// patience is for how long a state that is needed is waited for: on a machine that has much
// else to do, a guest may take minutes to boot.
const patience = 15 * time.Minute

// finalError ends a wait at once.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Final marks an error that waiting longer cannot mend.
func Final(err error) error { return finalError{err} }

// Wait looks at a condition until it holds, it returns a Final error, ctx ends or the
// time is up; then the error is the last that the condition had to say.
func Wait(ctx context.Context, what string, timeout time.Duration, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	again := time.NewTicker(period)
	defer again.Stop()
	var last error
	for {
		ok, err := holds(ctx)
		if ok {
			return nil
		}
		var final finalError
		if errors.As(err, &final) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s for %v: %w", what, timeout, errors.Join(ctx.Err(), last))
		case <-again.C:
		}
	}
}
