package driver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// TestStatus: each sentinel has its code, alone and wrapped; what is unknown promises
// nothing.
func TestStatus(t *testing.T) {
	want := map[error]codes.Code{
		store.ErrInvalid: codes.InvalidArgument, store.ErrRange: codes.OutOfRange, store.ErrNotFound: codes.NotFound,
		store.ErrConflict: codes.AlreadyExists, store.ErrBusy: codes.Aborted, store.ErrInUse: codes.FailedPrecondition,
		store.ErrNoSpace: codes.ResourceExhausted, store.ErrReadOnly: codes.FailedPrecondition, store.ErrClosed: codes.Unavailable,
		store.ErrFenced: codes.FailedPrecondition, store.ErrCorrupt: codes.Unavailable, store.ErrUnsupported: codes.InvalidArgument,
		store.ErrUnavailable: codes.Unavailable, volume.ErrToken: codes.Aborted, volume.ErrLimit: codes.ResourceExhausted,
		context.Canceled: codes.Canceled, context.DeadlineExceeded: codes.DeadlineExceeded, errors.New("what?"): codes.Unavailable,
	}
	for _, is := range store.Sentinels() {
		if _, ok := want[is]; !ok {
			t.Errorf("%v is not in this test", is)
		}
		listed := false
		for _, row := range codeOf {
			listed = listed || row.is == is
		}
		if !listed {
			t.Errorf("%v is not in the table", is)
		}
	}
	for is, code := range want {
		for _, err := range []error{is, fmt.Errorf("volume x: %w", is), fmt.Errorf("a: %w", errors.Join(errors.New("b"), is))} {
			got := status.Convert(toStatus("do it", err))
			if got.Code() != code || got.Message() == "" || len(got.Details()) != 0 {
				t.Errorf("%v: %v", err, got)
			}
		}
	}
	if toStatus("do it", nil) != nil {
		t.Error("success is an error")
	}
}

// TestStatusPromises: an error that does not know what happened never promises that
// nothing was made, whatever else it tells.
func TestStatusPromises(t *testing.T) {
	for _, is := range store.Sentinels() {
		err := fmt.Errorf("%w; clean up: %w", is, store.ErrUnavailable)
		if got := status.Code(toStatus("create", err)); got != codes.Unavailable {
			t.Errorf("%v: %v", err, got)
		}
	}
	for _, row := range codeOf {
		if row.code == codes.Internal || row.code == codes.Unknown {
			t.Errorf("%v: %v tells a provisioner that nothing was made", row.is, row.code)
		}
	}
}
