//go:build !ceph

package rbd_test

import (
	"errors"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/rbd"
)

// TestNotBuilt: a build without Ceph says so, and how to get it.
func TestNotBuilt(t *testing.T) {
	s, err := rbd.Open(t.Context(), rbd.Options{Pool: "rbd"})
	if s != nil || !errors.Is(err, rbd.ErrNotBuilt) || !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("open answers %v, %v", s, err)
	}
}
