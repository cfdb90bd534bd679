package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// TestGateHolds: a shut gate holds what it is to hold and nothing else, before or after
// the write, until it opens.
func TestGateHolds(t *testing.T) {
	mine := []byte("these bytes are held")
	for _, late := range []bool{false, true} {
		var g Gate
		wrote := make(chan struct{}, 1)
		ended := make(chan struct{})
		write := func() (int, error) { wrote <- struct{}{}; return len(mine), nil }
		arrived := g.shut(late, [][]byte{mine[6:]})
		if n, err := g.Pass([]byte("others pass"), func() (int, error) { return 11, nil }); n != 11 || err != nil {
			t.Errorf("another write is answered by %d, %v", n, err)
		}
		go func() {
			defer close(ended)
			if n, err := g.Pass(mine, write); n != len(mine) || err != nil {
				t.Errorf("the held write is answered by %d, %v", n, err)
			}
		}()
		<-arrived
		if late {
			<-wrote
		} else if len(wrote) != 0 {
			t.Error("a write is done that was to be held before")
		}
		select {
		case <-ended:
			t.Errorf("late %v: a shut gate lets a write go", late)
		default:
		}
		g.release()
		<-ended
		g.release() // open already
	}
}

// shamMachine has a gate that says that writes are held and lets them through.
type shamMachine struct {
	bentMachine
	gate Gate
}

func (m *shamMachine) Gate() *Gate { return &m.gate }

func (m *shamMachine) Open() (store.Full, error) {
	m.m = mutant{bend: func(s *memstore.Store) store.Full { return sham{bent{s}, &m.gate} }}
	return m.bentMachine.Open()
}

type sham struct {
	bent
	gate *Gate
}

func (s sham) Open(ctx context.Context, id store.ID) (store.Device, error) {
	d, err := s.bent.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return &bentDevice{Device: d, write: func(p []byte, off int64) (int, error) {
		s.gate.take(p)
		return d.WriteAt(p, off)
	}}, nil
}

// TestModelWantsWriters: the model checker fails where a structural operation meets no
// writers, as it does where a gate holds nothing.
func TestModelWantsWriters(t *testing.T) {
	var err error
	for seed := uint64(0); err == nil && seed < 20; seed++ {
		err = runSeed(&shamMachine{}, seed, Options{}, &tally{})
	}
	if !errors.Is(err, errAlone) {
		t.Fatalf("a gate that holds nothing is answered by %v", err)
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	t.Log(first)
}

// TestModelWantsWritersAtTheEnd: the same for a crash or a close that cuts a step short.
func TestModelWantsWritersAtTheEnd(t *testing.T) {
	label := &refusedAction{t: &thing{name: "i"}}
	for _, c := range []struct {
		ending ending
		met    []int
		ok     bool
	}{
		{endNone, []int{2}, true},
		{endNone, []int{1}, false},
		{endNone, nil, false},
		{endCrash, []int{2, 3}, true},
		{endCrash, []int{2, 1}, false},
		{endCrash, []int{2}, false},
		{endClose, []int{0, 2}, false},
		{endClose, []int{3, 2}, true},
	} {
		err := (&step{action: label, ending: c.ending, met: c.met}).judgeMeetings()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, errAlone) {
			t.Errorf("ending %d with %v writers under way: %v", c.ending, c.met, err)
		}
	}
}

// TestModelHoldsBegun: while a writer is held, its call was made and is not answered.
func TestModelHoldsBegun(t *testing.T) {
	wr := &writer{}
	st := &step{writers: []*writer{wr, {}}}
	g := &stage{gate: &Gate{}}
	wr.begun.Store(3)
	wr.acked.Store(2)
	st.begin(g)
	wr.acked.Store(3)
	st.begin(g)
	if len(st.met) != 2 || st.met[0] != 1 || st.met[1] != 0 {
		t.Errorf("one writer under way, then none, are counted as %v", st.met)
	}
}
