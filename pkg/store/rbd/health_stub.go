//go:build !ceph

package rbd

import "context"

// Probe answers ErrNotBuilt.
func Probe(context.Context, Options) (Health, error) { return Health{}, notBuilt{} }
