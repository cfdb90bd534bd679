package vfs

import (
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

// Injector decides, before an operation, whether it fails. It is called
// concurrently, and outside all locks: it may block to hold an operation up.
// A nil error lets the operation happen.
type Injector = func(Op) error

// Always fails every operation.
func Always(err error) Injector { return func(Op) error { return err } }

// AtIndex fails the k-th operation that reaches it, counted from 0.
func AtIndex(k int64, err error) Injector {
	var seen atomic.Int64
	return func(Op) error {
		if seen.Add(1)-1 == k {
			return err
		}
		return nil
	}
}

// FromIndex fails the k-th operation that reaches it, counted from 0, and all
// after it.
func FromIndex(k int64, err error) Injector {
	var seen atomic.Int64
	return func(Op) error {
		if seen.Add(1)-1 >= k {
			return err
		}
		return nil
	}
}

// OnKind asks inj about operations of the given kinds only.
func OnKind(kinds Kind, inj Injector) Injector {
	return func(op Op) error {
		if op.Kind&kinds == 0 {
			return nil
		}
		return inj(op)
	}
}

// OnPath asks inj about operations on matching paths only. The glob is that of
// path.Match; without a slash it is compared with the last element. A rename
// matches with either path. A malformed glob matches nothing.
func OnPath(glob string, inj Injector) Injector {
	match := func(name string) bool {
		if !strings.Contains(glob, "/") {
			name = path.Base(name)
		}
		ok, err := path.Match(glob, name)
		return ok && err == nil
	}
	return func(op Op) error {
		if !match(op.Path) && (op.Kind != OpRename || !match(op.To)) {
			return nil
		}
		return inj(op)
	}
}

// Once lets inj fail one operation, then never again.
func Once(inj Injector) Injector {
	var mu sync.Mutex
	done := false
	return func(op Op) error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil
		}
		err := inj(op)
		done = err != nil
		return err
	}
}

// Random fails operations with probability p (0 to 1), the same ones for the same
// seed as long as operations come in the same order.
func Random(seed uint64, p float64, err error) Injector {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	return func(Op) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.Float64() < p {
			return err
		}
		return nil
	}
}

// CountTo counts the operations that reach it and fails none.
func CountTo(n *atomic.Int64) Injector {
	return func(Op) error {
		n.Add(1)
		return nil
	}
}

// First asks the injectors in turn until one fails the operation; the others do
// not see it.
func First(injectors ...Injector) Injector {
	return func(op Op) error {
		for _, inj := range injectors {
			if err := inj(op); err != nil {
				return err
			}
		}
		return nil
	}
}

// CrashAt crashes the Faulty that asks it at the k-th mutating operation, counted
// from 0: that one and all operations after it fail with ErrCrashed.
func CrashAt(k int64) Injector { return OnKind(Mutating, AtIndex(k, ErrCrashed)) }
