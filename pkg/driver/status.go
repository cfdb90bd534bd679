package driver

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/attach"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/volume"
)

// codeOf is the only table from errors to codes; the first row that fits counts.
//
// A provisioner takes every code but CANCELED, DEADLINE_EXCEEDED, UNAVAILABLE and
// ABORTED as the promise that nothing was made. So the rows with another code are
// those whose errors leave the store as it was, and what is not listed is UNAVAILABLE:
// an error of which nothing is known may have left something behind.
var codeOf = []struct {
	is   error
	code codes.Code
}{
	{stage.ErrState, codes.FailedPrecondition},
	{attach.ErrUnsupported, codes.FailedPrecondition},
	{attach.ErrFull, codes.ResourceExhausted},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{store.ErrUnavailable, codes.Unavailable},
	{store.ErrClosed, codes.Unavailable},
	{store.ErrCorrupt, codes.Unavailable},
	{volume.ErrToken, codes.Aborted},
	{store.ErrBusy, codes.Aborted},
	{volume.ErrLimit, codes.ResourceExhausted},
	{store.ErrNoSpace, codes.ResourceExhausted},
	{store.ErrInUse, codes.FailedPrecondition},
	{store.ErrReadOnly, codes.FailedPrecondition},
	{store.ErrFenced, codes.FailedPrecondition},
	{store.ErrConflict, codes.AlreadyExists},
	{store.ErrNotFound, codes.NotFound},
	{store.ErrRange, codes.OutOfRange},
	{store.ErrUnsupported, codes.InvalidArgument},
	{store.ErrInvalid, codes.InvalidArgument},
}

// toStatus makes an error of a use-case the answer of an RPC; op says what was asked.
func toStatus(op string, err error) error {
	if err == nil {
		return nil
	}
	return status.Errorf(codeFor(err), "%s: %v", op, err)
}

func codeFor(err error) codes.Code {
	for _, row := range codeOf {
		if errors.Is(err, row.is) {
			return row.code
		}
	}
	return codes.Unavailable
}

// missing refuses a request that lacks a field.
func missing(field string) error {
	return fmt.Errorf("%s is missing: %w", field, store.ErrInvalid)
}

// invalid refuses a request for the reason given.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, store.ErrInvalid)...)
}
