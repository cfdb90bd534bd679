//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("STRATA_GUEST") == "" {
		fmt.Fprintln(os.Stderr, "scenario: these tests mount, kill and unplug: run them in a guest, see test/vm")
		os.Exit(2)
	}
	if _, err := os.Stat(os.Getenv("STRATA_BIN")); err != nil {
		fmt.Fprintln(os.Stderr, "scenario: STRATA_BIN does not name the strata binary:", err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// random returns the test's source of chance.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRATA_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("STRATA_SEED: %v", err)
		}
	}
	t.Logf("replay with STRATA_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// between returns a duration from lo up to hi.
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)))
}

// pause lets time pass under load.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test was ended")
	}
}

// eventually asks until what is asked for holds, and fails with its last answer.
func eventually(t *testing.T, bound time.Duration, what string, ask func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, bound, err)
		}
	}
}
