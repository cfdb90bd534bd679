package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestStackUnwindsInReverseAndGoesOn(t *testing.T) {
	var s stack
	var order []string
	bad := errors.New("bad")
	s.pushPlain("first", func() error { order = append(order, "first"); return nil })
	s.push("second", func(context.Context) error { order = append(order, "second"); return bad })
	s.pushPlain("third", func() error { order = append(order, "third"); return nil })
	err := s.unwind(t.Context())
	if !errors.Is(err, bad) || !strings.Contains(err.Error(), "stop second") {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(order, []string{"third", "second", "first"}) {
		t.Errorf("order %v", order)
	}
	if err := s.unwind(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second unwind did something: %v, %v", order, err)
	}
}

func TestStackIsBounded(t *testing.T) {
	why := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	var s stack
	ran := false
	release := make(chan struct{})
	defer close(release)
	s.push("last", func(context.Context) error { ran = true; return nil })
	s.pushPlain("stuck", func() error { <-release; return nil })
	if err := s.unwind(ctx); !errors.Is(err, why) || !ran {
		t.Errorf("got %v, the rest ran: %v", err, ran)
	}
}
