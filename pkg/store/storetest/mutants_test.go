package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// mutant is a store that breaks one promise. The suite, or the model, or both must
// notice; what they are expected to notice it by is named.
type mutant struct {
	name  string
	bend  func(*memstore.Store) store.Full
	cases []string // of the suite, each of which must fail
	model bool     // the model must fail
	// remember, if set, makes the machine keep state of the mutant over restarts
	crash func(store.Full)
}

// TestMutantsSuite: a broken promise fails the case that is named for it.
func TestMutantsSuite(t *testing.T) {
	for _, m := range mutants() {
		t.Run(m.name, func(t *testing.T) {
			for _, name := range m.cases {
				if !slices.Contains(caseNames(), name) {
					t.Fatalf("there is no case %s", name)
				}
				r := &recorder{}
				open := func(*testing.T) store.Full { return m.bend(memstore.New()) }
				r.run(func() { runCase(t, r, name, open, reopening(m)) })
				if len(r.failures) == 0 {
					t.Errorf("%s passes", name)
					continue
				}
				t.Logf("%s fails: %s", name, r.failures[0])
			}
		})
	}
}

func reopening(m mutant) Limits {
	return Limits{Reopen: func(_ *testing.T, s store.Full) store.Full {
		s.Close()
		return m.bend(plain(s).Reopen())
	}}
}

// plain unwraps a mutant.
func plain(s store.Full) *memstore.Store {
	return s.(interface{ unbent() *memstore.Store }).unbent()
}

// bent is the part that all mutants share.
type bent struct{ *memstore.Store }

func (b bent) unbent() *memstore.Store { return b.Store }

// TestMutantsModel: a broken promise is found by few random programs.
func TestMutantsModel(t *testing.T) {
	const most = 100
	for _, m := range mutants() {
		if !m.model {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			for seed := range uint64(most) {
				err := runSeed(&bentMachine{m: m}, seed, Options{}, &tally{})
				if err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("seed %d finds: %.300s", seed, first)
					return
				}
			}
			t.Errorf("%d seeds do not find it", most)
		})
	}
}

// bentMachine keeps a mutant through closes and crashes.
type bentMachine struct {
	m mutant
	s store.Full
}

func (b *bentMachine) Open() (store.Full, error) {
	if b.s == nil {
		b.s = b.m.bend(memstore.New())
	} else {
		b.s = b.m.bend(plain(b.s).Reopen())
	}
	return b.s, nil
}

func (b *bentMachine) Crash() error {
	old := b.s
	next := plain(old).Reopen()
	b.s = b.m.bend(next)
	if b.m.crash != nil {
		b.m.crash(old)
	}
	return nil
}

// TestSuiteSound: what is not broken passes, through the same recorder.
func TestSuiteSound(t *testing.T) {
	sound := mutant{bend: func(s *memstore.Store) store.Full { return bent{s} }}
	for _, name := range caseNames() {
		r := &recorder{}
		open := func(*testing.T) store.Full { return sound.bend(memstore.New()) }
		r.run(func() { runCase(t, r, name, open, reopening(sound)) })
		if len(r.failures) > 0 || r.skipped {
			t.Errorf("%s: skipped %v, %v", name, r.skipped, r.failures)
		}
	}
	if err := runSeed(&bentMachine{m: sound}, 1, Options{}, &tally{}); err != nil {
		t.Error(err)
	}
}

// closingMachine closes the store where it should crash.
type closingMachine struct{ bentMachine }

func (c *closingMachine) Crash() error {
	if err := c.s.Close(); err != nil {
		return err
	}
	return c.bentMachine.Crash()
}

// uncountedMachine hands out stores that do not count their Close calls.
type uncountedMachine struct{ bentMachine }

func (u *uncountedMachine) Open() (store.Full, error) {
	s, err := u.bentMachine.Open()
	return struct{ store.Full }{s}, err
}

// TestCrashMustNotClose: the harness refuses a crash that closes, and one that it
// cannot watch.
func TestCrashMustNotClose(t *testing.T) {
	sound := mutant{bend: func(s *memstore.Store) store.Full { return bent{s} }}
	var err error
	for seed := uint64(0); err == nil && seed < 20; seed++ {
		err = runSeed(&closingMachine{bentMachine{m: sound}}, seed, Options{}, &tally{})
	}
	if !errors.Is(err, errCrashClosed) {
		t.Errorf("a crash that closes is answered by %v", err)
	}
	err = nil
	for seed := uint64(0); err == nil && seed < 20; seed++ {
		err = runSeed(&uncountedMachine{bentMachine{m: sound}}, seed, Options{}, &tally{})
	}
	if err == nil || !strings.Contains(err.Error(), "does not count its Close calls") {
		t.Errorf("a store that cannot be watched is answered by %v", err)
	}
	s := CountCloses(memstore.New())
	if s.Close(); s.Closes() != 1 {
		t.Errorf("one Close is counted as %d", s.Closes())
	}
}
