package storetest

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strata-csi/strata/pkg/store"
)

// caseTimeout bounds one case; a backend that hangs fails instead of blocking.
const caseTimeout = 3 * time.Minute

// T is what a case needs of *testing.T.
type T interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Limits declares what a backend cannot do, and hooks that only it can provide.
type Limits struct {
	// Skip maps the name of a case (as in "TestRevert") to the reason why the
	// backend cannot pass it. Reasons are printed; unknown names fail the run.
	Skip map[string]string
	// Reopen closes the store and opens it again. Without it the cases that
	// reopen are skipped, saying so.
	Reopen func(t *testing.T, s store.Full) store.Full
	// CoarseUsage: Usage accounts by layer rather than by block, so Own may count
	// as Shared what only this object shows.
	CoarseUsage bool
}

// Run checks that a backend keeps every promise of package store. Each case is a
// subtest with a store of its own from open, which Run closes after it has checked
// clean. Cases are the methods named Test… of suite, found by reflection, so none can
// be left out of a list.
func Run(t *testing.T, open func(t *testing.T) store.Full, lim Limits) {
	names := caseNames()
	known := make(map[string]bool)
	for _, name := range names {
		known[name] = true
		t.Run(strings.TrimPrefix(name, "Test"), func(t *testing.T) {
			if why := lim.Skip[name]; why != "" {
				t.Skipf("declared limit of the backend: %s", why)
			}
			runCase(t, t, name, open, lim)
		})
	}
	for name := range lim.Skip {
		if !known[name] {
			t.Errorf("Limits.Skip names the unknown case %q", name)
		}
	}
}

func caseNames() []string {
	var names []string
	typ := reflect.TypeFor[*suite]()
	for i := range typ.NumMethod() {
		if name := typ.Method(i).Name; strings.HasPrefix(name, "Test") {
			names = append(names, name)
		}
	}
	return names
}

// runCase runs one case on a fresh store. What goes wrong is reported to tt, which is
// t itself except when the suite is tried on a store that must fail it.
func runCase(t *testing.T, tt T, name string, open func(t *testing.T) store.Full, lim Limits) {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	s := &suite{T: tt, ctx: ctx, s: open(t)}
	if lim.Reopen != nil {
		s.reopenStore = func(old store.Full) store.Full { return lim.Reopen(t, old) }
	}
	s.lim = lim
	tt.Cleanup(func() {
		defer cancel()
		s.finish()
	})
	reflect.ValueOf(s).MethodByName(name).Call(nil)
}

// suite is the receiver of every case; one is made for each.
type suite struct {
	T
	ctx         context.Context
	s           store.Full
	lim         Limits
	devices     []store.Device
	closed      bool // the case closed the store itself
	reopenStore func(store.Full) store.Full
}

// finish checks and closes the store of a case.
func (s *suite) finish() {
	if s.closed {
		return
	}
	s.checkClean()
	for _, d := range s.devices {
		d.Close() // may be closed already
	}
	if err := s.s.Close(); err != nil {
		s.Errorf("closing the store: %v", err)
	}
}

func (s *suite) checkClean() {
	s.Helper()
	problems, err := s.s.Check(s.ctx, true)
	if err != nil {
		s.Errorf("check: %v", err)
	}
	for _, p := range problems {
		s.Errorf("check finds %s: %s (harmless: %v)", p.Object, p.Text, p.Harmless)
	}
}

// reopen closes the store and opens it again; devices of before are gone.
func (s *suite) reopen() {
	s.Helper()
	if s.reopenStore == nil {
		s.Skipf("Limits.Reopen is not given")
	}
	for _, d := range s.devices {
		d.Close()
	}
	s.devices = nil
	s.s = s.reopenStore(s.s)
}
