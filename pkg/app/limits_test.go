package app

import (
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// TestLimitsGoThroughTheRegistry: limits set over the API hold at once for a client
// that is connected, and lifting them lets it go on.
func TestLimitsGoThroughTheRegistry(t *testing.T) {
	_, mem, r, c := onMemory(t)
	defer r.stop()
	img, d := newImage(t, c)
	defer d.Close()
	limit := func(l store.Limits) {
		t.Helper()
		if info, err := c.Modify(t.Context(), img.ID, store.Change{Limits: &l}); err != nil || info.Limits != l {
			t.Fatalf("limits %+v: %+v, %v", l, info.Limits, err)
		}
	}
	limit(store.Limits{Bandwidth: 1})
	if _, err := d.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err) // more than an hour's worth
	}
	ended := make(chan error, 1)
	go func() {
		_, err := d.WriteAt(make([]byte, 4096), 0)
		ended <- err
	}()
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Errorf("the second write did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	limit(store.Limits{})
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got, err := mem.Stat(t.Context(), img.ID); err != nil || got.Format != store.FormatUnknown {
		t.Errorf("a tool has written to it, and its format is %q, %v", got.Format, err)
	}
}
