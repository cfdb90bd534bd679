// Package pooltest is a network of stores in memory on which calls can fail: refused,
// or done without the caller learning of it. Tests of pools and of what is built on
// them use it; production code does not.
package pooltest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

// Fate is what becomes of a call.
type Fate int

const (
	// Pass: nothing special.
	Pass Fate = iota
	// Refuse: the store is not reached.
	Refuse
	// Lose: the store does what it is asked, and the answer is lost.
	Lose
	// Full: the store has no room.
	Full
	// Hold: a request on a device waits until the device is closed, as a store lets
	// writes wait that it has no room for. Other calls pass.
	Hold
)

// Network is a set of addresses at which stores answer. Safe for concurrent use.
type Network struct {
	mu     sync.Mutex
	stores map[string]store.Full
	free   map[string]int64
	node   map[string]string
	down   map[string]bool
	full   map[string]bool
	slow   map[string]bool
	fate   func(addr, op string) Fate
}

// New is a network without stores.
func New() *Network {
	return &Network{
		stores: make(map[string]store.Full), free: make(map[string]int64), node: make(map[string]string),
		down: make(map[string]bool), full: make(map[string]bool), slow: make(map[string]bool),
	}
}

// Add puts a new empty store at addr, instead of what was there, and returns it with
// its UUID.
func (n *Network) Add(addr string) (*memstore.Store, string) {
	s := memstore.New()
	n.Put(addr, s)
	st, err := s.Status(context.Background())
	if err != nil {
		panic(err) // it was just made
	}
	return s, st.UUID
}

// Put makes a store answer at addr; nil takes away what was there.
func (n *Network) Put(addr string, s store.Full) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == nil {
		delete(n.stores, addr)
		return
	}
	n.stores[addr] = s
}

// SetDown makes the store at addr unreachable, or reachable again.
func (n *Network) SetDown(addr string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[addr] = down
}

// SetFull makes the store at addr refuse new images, or take them again.
func (n *Network) SetFull(addr string, full bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.full[addr] = full
}

// Patience is how long a caller has to have left for a slow store.
const Patience = time.Hour

// SetSlow makes the store at addr say who it is only to callers that have Patience left, or
// no deadline. To others it answers at once that their time is over: nobody has to wait.
func (n *Network) SetSlow(addr string, slow bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow[addr] = slow
}

// hurried tells whether a slow store could not answer in the time that is left.
func (n *Network) hurried(ctx context.Context, addr string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	end, limited := ctx.Deadline()
	return n.slow[addr] && limited && time.Until(end) < Patience
}

// SetFree makes the store at addr say that it has so many bytes free.
func (n *Network) SetFree(addr string, bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.free[addr] = bytes
}

// SetNode makes the store at addr say that it runs on that node.
func (n *Network) SetNode(addr, node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node[addr] = node
}

// SetFate makes fn decide about every call; nil lets all of them pass. Operations are
// the names of the methods; those of devices are "ReadAt" and "WriteAt". fn may block.
func (n *Network) SetFate(fn func(addr, op string) Fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fate = fn
}

// Dial is for pool.Options.
func (n *Network) Dial(addr string) (pool.Remote, error) { return &remote{n, addr}, nil }

// Pools opens the pools of settings on this network, looking anew at every call.
func (n *Network) Pools(settings ...pool.Settings) *pool.Set {
	if len(settings) == 1 {
		settings[0].Default = true
	}
	set, err := pool.Open(pool.Config{Pools: settings}, pool.Options{
		Dial: n.Dial, MaxAge: -1, ProbeTimeout: 10 * time.Second,
	})
	if err != nil {
		panic(err) // the settings are the test's
	}
	return set
}

// at is the store at addr as things stand, and what is to become of op.
func (n *Network) at(addr, op string) (store.Full, Fate, error) {
	n.mu.Lock()
	s, down, full, decide := n.stores[addr], n.down[addr], n.full[addr], n.fate
	n.mu.Unlock()
	if s == nil || down {
		return nil, Pass, fmt.Errorf("%s: nobody answers: %w", addr, store.ErrUnavailable)
	}
	f := Pass
	if decide != nil {
		f = decide(addr, op)
	}
	if full && (op == "Create" || op == "WriteAt") && f == Pass {
		f = Full
	}
	return s, f, nil
}

// call does op at addr, as fate has it.
func call[T any](n *Network, addr, op string, do func(store.Full) (T, error)) (T, error) {
	s, f, err := n.at(addr, op)
	if err != nil {
		var none T
		return none, err
	}
	return decided(addr, op, f, func() (T, error) { return do(s) })
}

// decided does op as fate has decided.
func decided[T any](addr, op string, f Fate, do func() (T, error)) (T, error) {
	var none T
	switch f {
	case Refuse:
		return none, fmt.Errorf("%s: %s refused: %w", addr, op, store.ErrUnavailable)
	case Full:
		return none, fmt.Errorf("%s: %s: %w", addr, op, store.ErrNoSpace)
	}
	value, err := do()
	if f == Lose {
		return none, fmt.Errorf("%s: answer to %s lost: %w", addr, op, store.ErrUnavailable)
	}
	return value, err
}

// run is call for what returns only an error.
func run(n *Network, addr, op string, do func(store.Full) error) error {
	_, err := call(n, addr, op, func(s store.Full) (struct{}, error) { return struct{}{}, do(s) })
	return err
}
