package layered_test

import (
	"os"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/layered"
	"github.com/strata-csi/strata/pkg/store/storetest"
)

// scratch is a directory for a store: in memory where the machine has such a place,
// so that the tests measure strata and not the disk.
func scratch(t testing.TB) string {
	t.Helper()
	base := ""
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "strata-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("STRATA_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the scratch directory: %v", err)
		}
	})
	return dir
}

// testOptions are those of a store in a test: no space is kept in reserve, and what
// a client would be told as an event is in the test's log.
func testOptions(t testing.TB) layered.Options {
	return layered.Options{Reserve: -1, OnEvent: func(e layered.Event) {
		t.Logf("event: %s: %s (%v)", e.Object, e.Text, e.Err)
	}}
}

// newStore initialises and opens a store; the caller closes it.
func newStore(t testing.TB) (*layered.Store, string) {
	t.Helper()
	dir := scratch(t)
	if err := layered.Init(dir, string(store.NewID())); err != nil {
		t.Fatal(err)
	}
	return reopen(t, dir), dir
}

func reopen(t testing.TB, dir string) *layered.Store {
	t.Helper()
	st, err := layered.Open(dir, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestConformance(t *testing.T) {
	dirs := map[store.Full]string{}
	open := func(t *testing.T) store.Full {
		st, dir := newStore(t)
		dirs[st] = dir
		return st
	}
	storetest.Run(t, open, storetest.Limits{
		CoarseUsage: true,
		Reopen: func(t *testing.T, s store.Full) store.Full {
			dir := dirs[s]
			if err := s.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			st := reopen(t, dir)
			dirs[st] = dir
			return st
		},
	})
}
