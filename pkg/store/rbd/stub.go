//go:build !ceph

package rbd

import (
	"context"

	"github.com/strata-csi/strata/pkg/store"
)

// Store stands for the backend in a build without it. There is none.
type Store struct{ store.Full }

// Open answers ErrNotBuilt, which is store.ErrUnsupported too.
func Open(context.Context, Options) (*Store, error) { return nil, notBuilt{} }

// notBuilt is ErrNotBuilt classified.
type notBuilt struct{}

func (notBuilt) Error() string   { return ErrNotBuilt.Error() }
func (notBuilt) Unwrap() []error { return []error{ErrNotBuilt, store.ErrUnsupported} }
