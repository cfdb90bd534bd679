package storeapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strata-csi/strata/pkg/store"
)

func TestEverySentinelSurvivesTheWire(t *testing.T) {
	reasons := make(map[string]bool)
	for _, sentinel := range append(store.Sentinels(), ErrDenied) {
		sent := fmt.Errorf("create %q: 7 reasons: %w", "img", sentinel)
		wire := toStatus(sent)
		if code := status.Code(wire); code == codes.Unknown || code == codes.Internal || code == codes.OK {
			t.Errorf("%v has no row in the table: code %v", sentinel, code)
		}
		got := fromStatus("here", wire)
		if got.Error() != sent.Error() {
			t.Errorf("text %q became %q", sent, got)
		}
		for _, other := range store.Sentinels() {
			if errors.Is(got, other) != errors.Is(sentinel, other) {
				t.Errorf("%v arrives; matching %v is %v", sentinel, other, errors.Is(got, other))
			}
		}
	}
	for _, row := range table() {
		if reasons[row.reason] {
			t.Errorf("reason %s is used twice", row.reason)
		}
		reasons[row.reason] = true
	}
	if len(table()) != len(store.Sentinels())+1 {
		t.Errorf("%d rows for %d sentinels and one of our own", len(table()), len(store.Sentinels()))
	}
}

func TestErrorsOutsideTheTable(t *testing.T) {
	both := fmt.Errorf("resize: %w: %w", store.ErrInvalid, store.ErrRange)
	if got := fromStatus("", toStatus(both)); !errors.Is(got, store.ErrInvalid) || !errors.Is(got, store.ErrRange) {
		t.Errorf("%v does not match both of its sentinels", got)
	}
	plain := fromStatus("", toStatus(errors.New("disk on fire")))
	if plain.Error() != "disk on fire" {
		t.Errorf("got %q", plain)
	}
	for _, sentinel := range store.Sentinels() {
		if errors.Is(plain, sentinel) {
			t.Errorf("an unclassified error matches %v", sentinel)
		}
	}
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		if got := fromStatus("", toStatus(fmt.Errorf("walk: %w", want))); !errors.Is(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got := fromStatus("there", status.Error(codes.Unavailable, "dial")); !errors.Is(got, store.ErrUnavailable) || !strings.Contains(got.Error(), "there") {
		t.Errorf("a lost connection is %v", got)
	}
	if got := fromStatus("there", status.Error(codes.Unimplemented, "what?")); !errors.Is(got, store.ErrUnsupported) {
		t.Errorf("an older server is %v", got)
	}
	if toStatus(nil) != nil || fromStatus("", nil) != nil {
		t.Error("no error became one")
	}
}

func TestErrorTextIsBounded(t *testing.T) {
	long := fmt.Errorf("%s: %w", strings.Repeat("x\xff", 1<<20), store.ErrInvalid)
	got := fromStatus("", toStatus(long))
	if !errors.Is(got, store.ErrInvalid) || len(got.Error()) > 4*maxErrorText || strings.Contains(got.Error(), "\xff") {
		t.Errorf("%d bytes arrive, matching %v", len(got.Error()), errors.Is(got, store.ErrInvalid))
	}
}
