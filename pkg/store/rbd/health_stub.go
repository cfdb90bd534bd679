//go:build !ceph

package rbd

import "context"

// Probe answers ErrNotBuilt.
func Probe(context.Context, Options) (Health, error) { return Health{}, notBuilt{} }

// Guarded stands for a store that is watched over. There is none.
type Guarded struct{ *Store }

// Guard returns the store.
func Guard(s *Store) *Guarded { return &Guarded{Store: s} }

// Fenced never says anything.
func (*Guarded) Fenced() <-chan struct{} { return nil }
