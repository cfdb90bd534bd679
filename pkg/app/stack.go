package app

import (
	"context"
	"errors"
	"fmt"
)

// stack holds how to end what was started. It is not safe for concurrent use.
type stack struct {
	steps []step
}

type step struct {
	name string
	end  func(context.Context) error
}

// push adds a step that is done before those pushed earlier. end returns when the
// context ends, at the latest soon after.
func (s *stack) push(name string, end func(context.Context) error) {
	s.steps = append(s.steps, step{name, end})
}

// pushPlain adds a step that knows no context. When the context ends first, the step
// is left behind: the process is about to end.
func (s *stack) pushPlain(name string, end func() error) {
	s.push(name, func(ctx context.Context) error {
		done := make(chan error, 1)
		go func() { done <- end() }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		select {
		case err := <-done: // it was quick enough after all
			return err
		default:
			return context.Cause(ctx)
		}
	})
}

// unwind ends everything, the last first, and goes on after errors.
func (s *stack) unwind(ctx context.Context) error {
	var errs []error
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		if err := last.end(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}
