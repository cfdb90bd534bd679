//go:build ceph

package rbd

import (
	"context"
	"errors"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// TestOpenings: who follows a cut waits for what is being opened below it, and not for an
// image elsewhere that the library does not get open.
func TestOpenings(t *testing.T) {
	var o openings
	o.begin("stuck")
	end := o.begin("below")
	below := func(id store.ID) bool { return id == "below" }
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.wait(over, below); !errors.Is(err, context.Canceled) {
		t.Errorf("it does not wait for what is below: %v", err)
	}
	waited := make(chan error)
	go func() { waited <- o.wait(t.Context(), below) }()
	end()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := o.wait(t.Context(), below); err != nil {
		t.Error(err)
	}
}
