//go:build kernelnbd

package scenario

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/attach"
)

// ioBound is what I/O that will come back needs at most, on an emulated machine.
const ioBound = 3 * time.Minute

// comesBack waits for the end of something that does I/O.
func comesBack(ended <-chan struct{}, what string) error {
	late := time.NewTimer(ioBound)
	defer late.Stop()
	select {
	case <-ended:
		return nil
	case <-late.C:
		return fmt.Errorf("%s has not come back within %v", what, ioBound)
	}
}

// releaseIO ends all our devices if the test has failed: the store that they wait for may
// never come back, and the test is to end with what went wrong.
func releaseIO(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	k, err := attach.New(attach.Config{CallTimeout: 5 * time.Second})
	if err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := k.Devices(ctx)
	if err != nil {
		t.Error(err)
	}
	var calls sync.WaitGroup
	for _, d := range all {
		// Mounted as it is, it does not go away, but what waits for it fails.
		calls.Go(func() { _ = k.Disconnect(ctx, d) })
	}
	calls.Wait()
	if err := k.Close(ctx); err != nil {
		t.Error(err)
	}
}
