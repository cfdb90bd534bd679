package storeapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/store"
)

// errorDomain marks the ErrorInfo details that are ours.
const errorDomain = "strata"

// maxErrorText bounds the text of an error on the wire, in bytes.
const maxErrorText = 4096

// mapping is one row of the table that both directions use.
type mapping struct {
	is     error
	code   codes.Code
	reason string
}

// table returns the whole mapping. Of several sentinels that match, the first row
// gives the code; all give a reason.
func table() []mapping {
	return []mapping{
		{store.ErrUnavailable, codes.Unavailable, "UNAVAILABLE"},
		{store.ErrClosed, codes.Unavailable, "CLOSED"},
		{store.ErrBusy, codes.Aborted, "BUSY"},
		{store.ErrNoSpace, codes.ResourceExhausted, "NO_SPACE"},
		{store.ErrCorrupt, codes.DataLoss, "CORRUPT"},
		{store.ErrFenced, codes.FailedPrecondition, "FENCED"},
		{store.ErrInUse, codes.FailedPrecondition, "IN_USE"},
		{store.ErrReadOnly, codes.FailedPrecondition, "READ_ONLY"},
		{store.ErrConflict, codes.AlreadyExists, "CONFLICT"},
		{store.ErrNotFound, codes.NotFound, "NOT_FOUND"},
		{store.ErrRange, codes.OutOfRange, "RANGE"},
		{store.ErrInvalid, codes.InvalidArgument, "INVALID"},
		{store.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED"},
		{ErrDenied, codes.PermissionDenied, "DENIED"},
	}
}

// toStatus turns an error of the store into one for the wire.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	text := clip(err.Error())
	var st *status.Status
	for _, row := range table() {
		if !errors.Is(err, row.is) {
			continue
		}
		if st == nil {
			st = status.New(row.code, text)
		}
		if with, derr := st.WithDetails(&errdetails.ErrorInfo{Reason: row.reason, Domain: errorDomain}); derr == nil {
			st = with
		}
	}
	switch {
	case st != nil:
	case errors.Is(err, context.DeadlineExceeded):
		st = status.New(codes.DeadlineExceeded, text)
	case errors.Is(err, context.Canceled):
		st = status.New(codes.Canceled, text)
	default:
		if own, ok := status.FromError(err); ok {
			return own.Err() // a failed Send, already a status
		}
		st = status.New(codes.Internal, text)
	}
	return st.Err()
}

// remoteError is an error of the server: its text, and what it matches.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string { return e.text }

// Unwrap gives the sentinels to errors.Is.
func (e *remoteError) Unwrap() []error { return e.is }

// fromStatus turns an error of a gRPC call into one that matches the sentinels the
// server's error matched. server names the other side where the error is about the
// connection.
func fromStatus(server string, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	if is := sentinelsOf(st); len(is) > 0 {
		return &remoteError{text: st.Message(), is: is}
	}
	switch st.Code() {
	case codes.Unavailable:
		return fmt.Errorf("store at %s: %s: %w", server, connectionText(st.Message()), store.ErrUnavailable)
	case codes.DeadlineExceeded:
		return fmt.Errorf("store at %s: %w", server, context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("store at %s: %w", server, context.Canceled)
	case codes.Unimplemented:
		return fmt.Errorf("store at %s: %s: %w", server, st.Message(), store.ErrUnsupported)
	}
	return &remoteError{text: st.Message()}
}

// connectionText takes the cause out of what gRPC wraps around it when it cannot
// connect.
func connectionText(text string) string {
	wraps := []string{
		"Error while dialing: ", //nolint:misspell // it is gRPC's spelling
		"authentication handshake failed: ",
		"error reading server preface: ",
	}
	for _, wrap := range wraps {
		if _, cause, ok := strings.Cut(text, wrap); ok {
			return strings.ReplaceAll(strings.TrimSuffix(cause, `"`), `\"`, `"`)
		}
	}
	return text
}

func sentinelsOf(st *status.Status) []error {
	var is []error
	for _, d := range st.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		for _, row := range table() {
			if row.reason == info.GetReason() {
				is = append(is, row.is)
			}
		}
	}
	return is
}

// clip makes text fit for the wire: valid UTF-8 of bounded length.
func clip(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
